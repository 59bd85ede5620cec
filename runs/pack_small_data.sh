#!/usr/bin/env bash
# Compact shards of the small training set for runs/small_gpu.sh, in archives that a slow or narrow line bears:
#
#   bash runs/pack_small_data.sh                    data/small -> data/compact, data/compact/pieces/piece_NN.tar
#   bash runs/pack_small_data.sh --unpack           data/compact/pieces/*.tar -> data/compact
#
# grids/ holds the sources of the diffusion model without depth, scenes/ those of the reconstructor with depth. Videos
# are AVIF, which needs no PyAV to be read. If there are training shards of GLB files (docs/small-data.md), they join
# their sources as SOURCE-train-glb-*.tar, which the patterns of the configs match. Variables: IN (data/small), GLB
# (data/small-glb), HELD_OUT (assets/small/shards), OUT (data/compact), PIECE megabytes (55), WORKERS (2), PYTHON
# (python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
in=${IN:-data/small} held_out=${HELD_OUT:-assets/small/shards} out=${OUT:-data/compact} piece=${PIECE:-55}
glb=${GLB:-data/small-glb} python=${PYTHON:-python}

if [ "${1:-}" = --unpack ]; then
    for archive in "$out"/pieces/piece_*.tar; do tar -xf "$archive" -C "$out"; done
    exit
fi
compact() { # FOLDER OPTION... PATTERN...
    "$python" -m preparation.compact "${@:2}" --output "$out/$1" --workers "${WORKERS:-2}"
}
grids=objects,physics,homography,static scenes=rooms,objects,physics,static
compact grids "$in/{$grids}-train-*.tar" "$held_out/{$grids}-val-*.tar"
compact scenes --depth "$in/{$scenes}-train-*.tar" "$held_out/{rooms,objects}-val-*.tar"
if [ -d "$glb" ]; then
    glb_sources=objects,physics,static
    compact glb/grids "$glb/{$glb_sources}-train-*.tar"
    compact glb/scenes --depth "$glb/{rooms,$glb_sources}-train-*.tar"
    for shard in "$out"/glb/{grids,scenes}/*-train-*.tar; do # links: a repeated run finds what is complete
        name=$(basename "$shard")
        ln -f "$shard" "$out/$(basename "$(dirname "$shard")")/${name/-train-/-train-glb-}"
    done
fi

# whole shards go into pieces one after the other; none is larger than PIECE unless a single shard is
mkdir -p "$out/pieces"
rm -f "$out"/pieces/piece_*.tar
number=0 size=0 files=()
close() {
    [ ${#files[@]} -gt 0 ] || return 0
    tar -cf "$out/pieces/$(printf 'piece_%02d.tar' $number)" -C "$out" "${files[@]}"
    number=$((number + 1)) size=0 files=()
}
for shard in "$out"/{grids,scenes}/*.tar; do
    bytes=$(stat -c %s "$shard")
    [ $((size + bytes)) -le $((piece * 1000000)) ] || close
    size=$((size + bytes)) files+=("${shard#"$out"/}")
done
close
ls -l "$out"/pieces/piece_*.tar
