#!/bin/sh
# usage: PREFIX=/usr/local DESTDIR= install.sh [--uninstall]
# Installs the libraries built in target/release (or in $FROM), the headers, a pkg-config file and a CMake
# package. Nothing installed holds an absolute path, so that the tree can be moved.
set -eu
cd "$(dirname "$0")/.."

from=${FROM:-target/release}
root="${DESTDIR:-}${PREFIX:-/usr/local}"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# What a program that links the static library needs besides it.
static_libraries="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"

headers="worker_orcd.h worker_orcd_ext.h worker_orcd.hpp worker_orcd_base.hpp worker_ffi.h worker_types.h worker_errors.h"
libraries="libworker_orcd.so libworker_orcd.a libworker_cuda.a"
pc=lib/pkgconfig/worker_orcd.pc
cmake=lib/cmake/worker_orcd

remove() {
    for name in $headers; do rm -f "$root/include/$name"; done
    for name in $libraries; do rm -f "$root/lib/$name"; done
    rm -f "$root/$pc" "$root/$cmake/worker_orcd-config.cmake" "$root/$cmake/worker_orcd-config-version.cmake"
    for folder in $cmake lib/cmake lib/pkgconfig lib include; do
        rmdir "$root/$folder" 2>/dev/null || true
    done
}

write_pkgconfig() {
    cat >"$root/$pc" <<EOF
prefix=\${pcfiledir}/../..
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: worker_orcd
Description: GGUF language models behind a small C ABI, on the CPU and on NVIDIA GPUs
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lworker_orcd
Libs.private: $static_libraries
EOF
}

write_cmake_config() {
    cat >"$root/$cmake/worker_orcd-config.cmake" <<EOF
# worker_orcd::shared and worker_orcd::static.
get_filename_component(_worker_orcd_prefix "\${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET worker_orcd::shared)
  add_library(worker_orcd::shared SHARED IMPORTED)
  set_target_properties(worker_orcd::shared PROPERTIES
    IMPORTED_LOCATION "\${_worker_orcd_prefix}/lib/libworker_orcd.so"
    IMPORTED_SONAME "libworker_orcd.so"
    INTERFACE_INCLUDE_DIRECTORIES "\${_worker_orcd_prefix}/include")
endif()

if(NOT TARGET worker_orcd::static)
  add_library(worker_orcd::static STATIC IMPORTED)
  set_target_properties(worker_orcd::static PROPERTIES
    IMPORTED_LOCATION "\${_worker_orcd_prefix}/lib/libworker_orcd.a"
    INTERFACE_INCLUDE_DIRECTORIES "\${_worker_orcd_prefix}/include"
    INTERFACE_LINK_LIBRARIES "$(echo "$static_libraries" | tr ' ' ';')")
endif()

unset(_worker_orcd_prefix)
EOF
}

# Before 1.0 what is beyond the 14 functions may change with the minor number, so that has to agree.
write_cmake_version() {
    cat >"$root/$cmake/worker_orcd-config-version.cmake" <<EOF
set(PACKAGE_VERSION "$version")
string(REGEX MATCH "^[0-9]+\\\\.[0-9]+" _worker_orcd_have "\${PACKAGE_VERSION}")
string(REGEX MATCH "^[0-9]+\\\\.[0-9]+" _worker_orcd_want "\${PACKAGE_FIND_VERSION}.0")
if(PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION OR NOT _worker_orcd_have VERSION_EQUAL _worker_orcd_want)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
EOF
}

if [ "${1:-}" = --uninstall ]; then
    remove
    echo "removed from $root"
    exit 0
fi

for name in libworker_orcd.so libworker_orcd.a; do
    [ -f "$from/$name" ] || {
        echo "$from/$name does not exist: run 'make lib' first" >&2
        exit 1
    }
done
mkdir -p "$root/include" "$root/lib/pkgconfig" "$root/$cmake"
for name in $headers; do install -m 644 "include/$name" "$root/include/$name"; done
install -m 755 "$from/libworker_orcd.so" "$root/lib/"
install -m 644 "$from/libworker_orcd.a" "$root/lib/"
# The name that old build scripts link. A copy: a link would not survive every packager.
install -m 644 "$from/libworker_orcd.a" "$root/lib/libworker_cuda.a"
write_pkgconfig
write_cmake_config
write_cmake_version
echo "installed worker_orcd $version in $root"
