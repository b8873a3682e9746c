#!/usr/bin/env bash
# Sets up all that komo-envs needs: system libraries, .venv, and the Python packages of
# pyproject.toml at the versions of constraints.txt. Run it as often as you like: it does only
# what is left to do.
#
#   ./setup.sh                      what it takes to run
#   ./setup.sh --dev                and to test: a virtual screen, a browser, pytest, ...
#   PYTHON=python3.12 ./setup.sh    with this Python; else python3, or any from 3.10 to 3.13
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# The libraries that robotic links to and moderngl opens, each with its Debian and Ubuntu package.
libraries=(
    libfreetype.so.6:libfreetype6
    liblapack.so.3:liblapack3
    libX11.so.6:libx11-6
    libXi.so.6:libxi6
    libXrandr.so.2:libxrandr2
    libXxf86vm.so.1:libxxf86vm1
    libGLU.so.1:libglu1-mesa
    libGL.so.1:libgl1
    libEGL.so.1:libegl1
)
stamp=.venv/.setup # "unfinished", or what .venv was made from
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case "$*" in
    '') extra='' ;;
    --dev) extra='[dev]' ;;
    *) echo "setup: ./setup.sh $*: expected nothing, or --dev" >&2 && exit 2 ;;
esac

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# Runs a command and shows what it prints only if it fails.
quietly() {
    "$@" >"$scratch/log" 2>&1 && return
    cat "$scratch/log" >&2
    return 1
}

in_range() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
has() { "$1" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' "${@:2}" 2>/dev/null; }
version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }
fingerprint() { { echo "$1" && pwd && version .venv/bin/python && cat pyproject.toml constraints.txt; } | sha256sum; }
unfinished() { [ "$(cat "$stamp" 2>/dev/null)" = unfinished ]; }

# Sets $python to the Python to use, or else $without_venv to the system's, which lacks only venv.
find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11 python3.10)
    if [ -n "${PYTHON:-}" ]; then
        candidates=("$PYTHON")
    elif [ -f "$stamp" ] && ! unfinished; then
        candidates=(.venv/bin/python "${candidates[@]}")
    fi
    python='' without_venv=''
    for candidate in "${candidates[@]}"; do
        in_range "$candidate" || continue
        if has "$candidate" venv ensurepip; then
            python=$candidate
            return
        elif [ -z "$without_venv" ] && [[ $(command -v "$candidate") == /usr/bin/* ]]; then
            without_venv=$candidate
        fi
    done
}

# Sets $packages to what has to be installed, and $absent to the same in words. The loader is
# asked for the libraries, not dpkg: they may well come from elsewhere (OpenBLAS, conda).
find_missing() {
    local entry asked=${python:-$without_venv}
    packages=() absent=()
    if [ -z "$python" ]; then
        absent+=('Python 3.10 to 3.13 with venv and ensurepip')
        if [ -n "$without_venv" ]; then
            packages+=("python$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv")
        elif [ -z "${PYTHON:-}" ] && ! command -v python3 >/dev/null; then
            packages+=(python3 python3-venv)
        else
            die "no Python from 3.10 to 3.13 with venv and ensurepip: ${PYTHON:-python3} is $(version "${PYTHON:-python3}" || echo 'not to be found')." \
                'Install one and name it: PYTHON=/path/to/python ./setup.sh'
        fi
    fi
    for entry in "${libraries[@]}"; do
        if [ -z "$asked" ] || ! "$asked" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${entry%:*}" 2>/dev/null; then
            packages+=("${entry#*:}")
            absent+=("${entry%:*}")
        fi
    done
    # The driver that draws where there is no GPU comes with no library to ask for.
    if [[ " ${absent[*]} " == *libEGL* ]]; then packages+=(libgl1-mesa-dri); fi
}

install_packages() {
    local as_root=() install=(apt-get install -y --no-install-recommends "$@")
    command -v apt-get >/dev/null || die "please install what is missing, then run ./setup.sh again: $(IFS=,; echo "${absent[*]}")"
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; then
            die 'system packages are missing, and here is neither root nor sudo to install them.' \
                "Have root run this, then run ./setup.sh again: ${install[*]}"
        fi
        as_root=(sudo)
    fi
    say "installing system packages: $*"
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    "${as_root[@]}" dpkg --configure -a </dev/null >/dev/null 2>&1 || true # finishes what was interrupted
    quietly "${as_root[@]}" apt-get update || say 'apt-get update failed for the sources above; going on'
    quietly "${as_root[@]}" "${install[@]}" -o DPkg::Lock::Timeout=300 || die "this failed: ${install[*]}"
}

[ "$(uname -sm)" = 'Linux x86_64' ] || die "robotic, the physics, runs on Linux on x86-64; this is $(uname -sm)."
# A second setup.sh waits for the first, but on a disk that has no locks for folders.
exec 9<.
flock 9 2>/dev/null || say 'this disk has no locks: see to it that no other setup.sh runs here'

find_python
find_missing
tools=() # for the tests that open a window or a page; without them those are skipped
if [ "$extra" ] && command -v apt-get >/dev/null; then
    command -v Xvfb >/dev/null || tools+=(xvfb)
    # Ubuntu's is a snap, which hardly runs in a container and cannot open every file.
    if grep -qx ID=debian /etc/os-release && ! command -v chromium >/dev/null; then tools+=(chromium); fi
fi
asked=${#packages[@]}
if ((asked)); then
    install_packages "${packages[@]}"
    find_python
    find_missing
    ((${#packages[@]} == 0)) || die "still missing: $(IFS=,; echo "${absent[*]}")"
fi
if ((asked)) || [ "$(id -u)" -eq 0 ]; then # no password is asked for them alone
    for tool in "${tools[@]}"; do
        (install_packages "$tool") || say "going on without $tool"
    done
fi

rmdir .venv 2>/dev/null || true # all that there is where making it was interrupted at once
if [ -f "$stamp" ]; then
    if unfinished || ! has .venv/bin/python pip robotic gymnasium moderngl ||
        [ "$(version .venv/bin/python)" != "$(version "$python")" ]; then
        rm -rf .venv
        find_python
    fi
elif [ -e .venv ]; then
    die '.venv is there, but setup.sh has not made it. Move it away.'
fi
if [ ! -e .venv ]; then
    say "making .venv with Python $(version "$python")"
    mkdir .venv && echo unfinished >"$stamp"
    quietly "$python" -m venv .venv || die 'could not make .venv'
fi

made_from=$(cat "$stamp")
if [ "$made_from" != "$(fingerprint '[dev]')" ] && [ "$made_from" != "$(fingerprint "$extra")" ]; then
    say 'installing Python packages (some minutes the first time)'
    echo unfinished >"$stamp"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    if ! quietly .venv/bin/python -m pip install -q -e ".$extra" -c constraints.txt; then
        echo "$made_from" >"$stamp" # what was there still works
        die 'pip failed, as above'
    fi
    quietly env -C "$scratch" "$PWD/.venv/bin/python" -c '
import robotic
from komo_envs.cameras.graphics import open_graphics
open_graphics().close()
' || die 'the packages are installed, but robotic or the renderer does not start, as above'
    fingerprint "$extra" >"$stamp"
fi
say "ready: .venv with Python $(version .venv/bin/python)"
