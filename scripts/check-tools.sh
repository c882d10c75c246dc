#!/bin/sh
# Says what to install when a tool of the build is missing; silent when all are there.
set -u

missing=0
need() { # COMMAND WHERE-FROM
    command -v "$1" >/dev/null 2>&1 && return
    echo "$1 is missing: $2" >&2
    missing=1
}

need cargo "install Rust 1.89 or newer (rustup, or your distribution's rustc and cargo)"
need cc "install a C compiler (Debian: apt install gcc)"
need c++ "install a C++ compiler (Debian: apt install g++)"
need python3 "install Python 3 (Debian: apt install python3); it fetches the CUDA compiler and the test model"
exit $missing
