# Sourced by scripts/start and scripts/test: makes .venv as scripts/requirements.lock says, and nothing on a second run.
# Needs Python 3.11 with its venv module; everything else comes through pip.

UV_VERSION=0.13.8  # the installer itself; its own pin stands in the lock as well

die() {
    echo "medai: $*" >&2
    exit 2
}

find_python() {
    local candidate
    for candidate in "${MEDAI_PYTHON:-}" python3.11 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 was not found. On Debian 12: sudo apt-get install python3 python3-venv. Elsewhere: set MEDAI_PYTHON to its path."
}

# Debian splits venv from Python: fetch it where we may, else say how.
make_venv() { # PYTHON FOLDER
    if ! "$1" -c 'import ensurepip' 2>/dev/null; then
        local package
        package=$([ "$(basename "$1")" = python3 ] && echo python3-venv || echo python3.11-venv)
        echo "medai: installing Debian's $package (Python's venv module is missing)"
        if [ "$(id -u)" = 0 ]; then
            apt-get update -q && apt-get install -y -q "$package"
        else
            sudo -n sh -c "apt-get update -q && apt-get install -y -q $package"
        fi || die "Python's venv module is missing. Run: sudo apt-get install $package"
    fi
    "$1" -m venv --clear "$2"
}

# Installs a lock file into a virtual environment unless its stamp says that it is there already.
install_lock() { # FOLDER LOCK…
    local folder=$1 lock=$2 stamp wanted python
    stamp=$folder/.medai-installed
    wanted=$(cat "$lock" pyproject.toml scripts/environment.sh | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    python=$(find_python)
    echo "medai: setting up $folder (once; some gigabytes, a few minutes)"
    [ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1 || make_venv "$python" "$folder"
    "$folder/bin/python" -m pip install -q --disable-pip-version-check "uv==$UV_VERSION"
    # Bytecode is compiled now: MONAI's first import takes minutes without it on a slow disk.
    "$folder/bin/uv" pip sync -q --python "$folder/bin/python" --compile-bytecode "$lock"
    if [ "$lock" = scripts/requirements.lock ]; then
        "$folder/bin/uv" pip install -q --python "$folder/bin/python" --no-deps --no-build-isolation -e .
    fi
    printf '%s\n' "$wanted" >"$stamp"
}
