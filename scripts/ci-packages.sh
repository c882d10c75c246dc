#!/bin/sh
# Installs what the tests want beyond Rust, g++ and Python, where this machine lacks it and is a
# Debian on which we are root. Elsewhere it does nothing; the tests then name the tool they miss.
set -u

wanted=""
want() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"
}
want cmake cmake
want pkg-config pkg-config
want clang clang
want go golang-go
want valgrind valgrind
want nm binutils
want doxygen doxygen
want script bsdutils

[ -n "$wanted" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "missing:$wanted" >&2
    exit 0
fi
echo "installing:$wanted"
# shellcheck disable=SC2086 # a list of words
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
