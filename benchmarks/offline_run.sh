#!/usr/bin/env bash
# Runs this project from a bundle, without network and without touching the machine's own packages:
#
#   bash run.sh tests [OPTION...]          the tests that need a GPU
#   bash run.sh benchmark [OPTION...]      python -m benchmarks.gpu
#   bash run.sh main OPTION...             python main.py, e.g. main fit --config configs/small/autoencoder.yaml
#   bash run.sh python OPTION...           any Python command with the packages of the bundle
#
# PYTHON names the interpreter (default python3), SITE the folder that the wheels are installed into.
set -euo pipefail
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
site=${SITE:-$bundle/site}
case ${1:-} in
    tests | benchmark | main | python) ;;
    *) sed -n '4,7s/^# *//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
if [ ! -e "$site/.complete" ]; then
    wheels=("$bundle"/wheels/*.whl)
    if [ -e "${wheels[0]}" ]; then
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "${wheels[@]}"
    fi
    mkdir -p "$site" && touch "$site/.complete"
fi
cd "$bundle/source"
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
case ${1:-} in
    tests) exec "$python" -m pytest -m gpu tests/gpu "${@:2}" ;;
    benchmark) exec "$python" -m benchmarks.gpu "${@:2}" ;;
    main) exec "$python" main.py "${@:2}" ;;
    python) exec "$python" "${@:2}" ;;
esac
