# Sourced by the scripts that fetch packages: sets $pip to a command that works.
# Debian ships python3 without pip and without venv's seed; one of the two is enough.

find_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        pip="python3 -m pip"
        return
    fi
    if [ -x .venv/bin/pip ] || python3 -m venv .venv >/dev/null 2>&1; then
        pip=".venv/bin/pip"
        return
    fi
    rm -rf .venv
    echo "python3 has neither pip nor a working venv module." >&2
    echo "Install one of them and try again; on Debian: apt install python3-venv" >&2
    return 1
}
