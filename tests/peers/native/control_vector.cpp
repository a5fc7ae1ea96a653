// Calls llama.cpp's own loader of control vectors (common/common.h), which has C++ types, from C.
// g++ -shared -fPIC -o libcontrol_vector.so control_vector.cpp -L FOLDER -l:libllama-common.so
#include <cstring>
#include <string>
#include <vector>

struct common_control_vector_data {
    int n_embd;
    std::vector<float> data;  // n_embd numbers for block 1, then for block 2, and so on
};
struct common_control_vector_load_info {
    float strength;
    std::string fname;
};
common_control_vector_data common_control_vector_load(const std::vector<common_control_vector_load_info> &);

// Width of the vectors, -1 when the loader rejects the file; at most `capacity` numbers are copied to `out`.
extern "C" int load_control_vector(const char *path, float strength, float *out, int capacity, int *count) {
    common_control_vector_data loaded = common_control_vector_load({{strength, path}});
    *count = static_cast<int>(loaded.data.size());
    if (loaded.n_embd > 0 && *count <= capacity) {
        std::memcpy(out, loaded.data.data(), loaded.data.size() * sizeof(float));
    }
    return loaded.n_embd;
}
