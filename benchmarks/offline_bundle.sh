#!/usr/bin/env bash
# One folder that runs this project on a machine without internet: the committed source, the wheels which that machine
# lacks, and a run script.
#
#   bash benchmarks/offline_bundle.sh [--have PIP_LIST] [OPTION...] FOLDER
#
# PIP_LIST is what `python3 -m pip list` prints on that machine; without it, everything is carried, PyTorch included
# (gigabytes). Further options are those of `python -m benchmarks.offline_wheels`: --python 3.12, --platform TAG,
# --without av, --with REQUIREMENT. Over there: bash FOLDER/run.sh tests. See docs/offline.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
usage() { sed -n '5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
[ $# -gt 0 ] || usage
folder=${!#}
case $folder in -*) usage ;; esac
options=("${@:1:$#-1}")
if [ -e "$folder/source" ] || [ -e "$folder/wheels" ]; then
    echo "$folder already holds a bundle; expected a new or an empty folder" >&2
    exit 1
fi
mkdir -p "$folder/source"
folder=$(cd "$folder" && pwd)
for ((k = 0; k < ${#options[@]}; k++)); do # a path of the caller, also after changing the folder
    if [ "${options[k]}" = --have ]; then options[k + 1]=$(realpath "${options[k + 1]}"); fi
done

git -C "$here" archive HEAD | tar -x -C "$folder/source"
git -C "$here" rev-parse HEAD >"$folder/source/REVISION"
(cd "$here" && "$python" -m benchmarks.offline_wheels --with pytest --output "$folder/wheels" "${options[@]}")
cp "$here/benchmarks/offline_run.sh" "$folder/run.sh"
du -sh "$folder" | sed 's/\t/ in /'
