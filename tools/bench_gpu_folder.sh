#!/usr/bin/env bash
# Gathers what tools/bench_gpu.py needs on a machine that has only torch's image (Python 3.12) and no network, 12 MB:
#   bin/setup worker && tools/bench_gpu_folder.sh
# fills .gpu. Take it there with the repository, and in the repository's folder
#   python3 -m pip install -q --no-index --no-deps --target /tmp/site .gpu/*.whl &&
#     PYTHONPATH=.gpu:/tmp/site:.:plugins python3 tools/bench_gpu.py --json rates.json
# The image is expected to have torch, torchvision, numpy, scipy, opencv, pillow, pyarrow, matplotlib, onnxruntime,
# safetensors, timm, huggingface-hub, PyYAML, rich, tqdm, six, regex, aiohttp and nvidia-ml-py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(realpath --canonicalize-missing "${1:-$root/.gpu}")
platforms=$(printf -- '--platform %s ' manylinux{_2_28,_2_27,_2_17,2014,1}_x86_64)
incomplete=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$incomplete"' EXIT
mkdir "$incomplete/xtcocotools"
# shellcheck disable=SC2086
"$root/.venv/worker/bin/python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$incomplete" \
  --python-version 3.12 --implementation cp $platforms \
  mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 mmpose==1.3.2 open_clip_torch==3.3.0 addict==2.4.0 yapf==0.43.0 \
  platformdirs==4.14.7 termcolor==3.3.0 terminaltables==3.1.10 munkres==3.0.0 json-tricks==3.17.3 pycocotools==2.0.11 \
  shapely==2.2.0 ftfy==6.3.1 wcwidth==0.9.4 setuptools==81.0.0
# mmpose imports xtcocotools, which has no build for NumPy 2 (https://github.com/jin-s13/xtcocoapi/issues/45), to read
# annotations; inference calls nothing of it. pycocotools, which it was made from, takes its place under its name.
touch "$incomplete/xtcocotools/__init__.py"
for module in coco cocoeval mask; do
  echo "from pycocotools.$module import *  # noqa: F403" >"$incomplete/xtcocotools/$module.py"
done
rm -rf "$folder"
mv "$incomplete" "$folder"
du -sh "$folder"
