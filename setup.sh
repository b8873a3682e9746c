#!/usr/bin/env bash
# Sets up all that komo-envs needs: system libraries, .venv, and the Python packages of
# pyproject.toml at the versions of constraints.txt. Run it as often as you like: it does only
# what is left to do.
#
#   ./setup.sh                      what it takes to run
#   ./setup.sh --dev                and to test: a virtual screen, a browser, pytest, ...
#   ./setup.sh --cpu                with the PyTorch for CPUs: 0.4 GB to download, 1.6 GB in .venv
#   ./setup.sh --cuda               with the PyTorch for NVIDIA GPUs: 3 GB and 5.3 GB
#   PYTHON=python3.12 ./setup.sh    with this Python; else python3, or any from 3.10 to 3.13
#
# --dev adds 2.2 GB to .venv. Without --cpu or --cuda, a PyTorch that is in .venv stays. If there is
# none, a machine with an NVIDIA GPU gets the one for GPUs, and any other the one for CPUs.
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
cpu_size='0.4 GB to download, 1.6 GB in .venv'
gpu_size='3 GB to download, 5.3 GB in .venv'
cpu_index=https://download.pytorch.org/whl/cpu
stamp=.venv/.setup # "unfinished", or what .venv was made from
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

extra='' asked_build=''
for option in "$@"; do
    case "$option" in
        --dev) extra='[dev]' ;;
        --cpu | --cuda)
            if [ "$asked_build" ] && [ "$asked_build" != "${option#--}" ]; then
                echo "setup: ./setup.sh $*: expected one of --cpu and --cuda" >&2 && exit 2
            fi
            asked_build=${option#--}
            ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' setup.sh && exit ;;
        *) echo "setup: ./setup.sh $option: expected --dev, --cpu, --cuda or --help" >&2 && exit 2 ;;
    esac
done

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

# Runs a command quietly, and says every ten seconds how much there is on the disk so far.
patiently() {
    local ticker status=0
    while sleep 10 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        say "$(du -shc .venv "$scratch" 2>/dev/null | tail -n 1 | cut -f 1)B on the disk so far"
    done 9<&- &
    ticker=$!
    TMPDIR=$scratch quietly "$@" || status=$?
    kill "$ticker" 2>/dev/null && wait "$ticker" 2>/dev/null || true
    return "$status"
}

in_range() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
has() { "$1" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' "${@:2}" 2>/dev/null; }
version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }
fingerprint() { { echo "$1" && pwd && version .venv/bin/python && cat pyproject.toml constraints.txt; } | sha256sum; }
# Whether PyTorch in .venv is at the version of constraints.txt, and of which build it is.
torch_version() { sed -n 's/^torch==//p' constraints.txt; }
torch_build() {
    .venv/bin/python - "$(torch_version)" 2>/dev/null <<'END'
import importlib.metadata, pathlib, runpy, sys

files = importlib.metadata.distribution("torch")
assert files.version.partition("+")[0] == sys.argv[1]
told = runpy.run_path(str(files.locate_file("torch/version.py")))
print("cuda" if told["cuda"] else "cpu")
END
}
has_gpu() { compgen -G '/dev/nvidia[0-9]*' >/dev/null || nvidia-smi -L >/dev/null 2>&1; }
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
                "Have root run this, then run ./setup.sh again: apt-get update && ${install[*]}"
        fi
        as_root=(sudo)
    fi
    say "installing system packages: $*"
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    "${as_root[@]}" dpkg --configure -a </dev/null >/dev/null 2>&1 || true # finishes what was interrupted
    quietly "${as_root[@]}" apt-get update || say 'apt-get update failed for the sources above; going on'
    quietly "${as_root[@]}" "${install[@]}" -o DPkg::Lock::Timeout=300 || die "this failed: ${install[*]}"
}

# Says which PyTorch there will be, and installs it if it is the one for CPUs. The one for GPUs is
# PyPI's, so pip finds it with all the others. Returns 1 if the one that was asked for is not there.
install_torch() {
    local why='as asked'
    build=$asked_build
    if [ -z "$build" ] && has_gpu; then
        build=cuda why='this machine has an NVIDIA GPU'
    elif [ -z "$build" ]; then
        build=cpu why='this machine has no NVIDIA GPU'
    fi
    if [ "$build" = cuda ]; then
        say "PyTorch for GPUs, $why: $gpu_size. For the one for CPUs ($cpu_size): ./setup.sh --cpu"
        return
    fi
    say "PyTorch for CPUs, $why: $cpu_size. For the one for GPUs ($gpu_size): ./setup.sh --cuda"
    patiently .venv/bin/python -m pip install -q --no-deps --retries 1 --timeout 15 \
        --index-url "$cpu_index" "torch==$(torch_version)+cpu" 2>/dev/null && return
    say "$cpu_index gives no PyTorch $(torch_version) for CPUs."
    [ -z "$asked_build" ] || return 1
    say 'Going on with the PyTorch that pip finds. If it is the one for GPUs: '"$gpu_size"
}

install_the_rest() {
    say 'installing Python packages (some minutes the first time)'
    patiently .venv/bin/python -m pip install -q "$@" || return
    # What came with a PyTorch for GPUs takes 3 GB, and is of no use to one for CPUs. The tests need
    # Triton with either.
    if [ "$(torch_build)" = cpu ]; then
        local leftovers='nvidia-[^=]*\|cuda-[^=]*'
        [ "$extra" ] || leftovers="triton\|$leftovers"
        .venv/bin/python -m pip list --format freeze | sed -n "s/^\($leftovers\)=.*/\1/p" |
            xargs -r .venv/bin/python -m pip uninstall -q -y 2>/dev/null
    fi
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
elif ((${#tools[@]})); then
    say "the tests that open a window or a page will be skipped: there is no $(IFS=,; echo "${tools[*]}"). For them, have root run:"
    say "apt-get update && apt-get install -y --no-install-recommends ${tools[*]}"
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
build=$(torch_build || true) # empty if it is to be installed
if [ "$asked_build" ] && [ "$build" != "$asked_build" ]; then build=''; fi
if [ ! -e .venv ]; then
    say "making .venv with Python $(version "$python")"
    mkdir .venv && echo unfinished >"$stamp"
    quietly "$python" -m venv .venv || die 'could not make .venv'
fi

made_from=$(cat "$stamp")
if [ -z "$build" ] || { [ "$made_from" != "$(fingerprint '[dev]')" ] && [ "$made_from" != "$(fingerprint "$extra")" ]; }; then
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    packages=(-e ".$extra" -c constraints.txt)
    if [ "$asked_build" = cuda ]; then packages+=("torch!=$(torch_version)+cpu"); fi
    echo unfinished >"$stamp"
    if ! { [ "$build" ] || install_torch; } || ! install_the_rest "${packages[@]}"; then
        echo "$made_from" >"$stamp" # what was there still works
        die 'pip failed, as above'
    fi
    quietly env -C "$scratch" "$PWD/.venv/bin/python" -c '
import robotic
from komo_envs.rendering.graphics import open_graphics
open_graphics().close()
' || die 'the packages are installed, but robotic or the renderer does not start, as above'
    fingerprint "$extra" >"$stamp"
fi
say "ready: .venv with Python $(version .venv/bin/python), PyTorch $(torch_version) for $(torch_build | sed 's/cpu/CPUs/; s/cuda/GPUs/')"
