/* "Inference", the pieces: whole UTF-8, never empty, never beyond the buffer, nothing lost when one does
 * not fit, and no text for control tokens. */

#include "check.h"

/* The length of the UTF-8 sequence at s, 0 if it is none. */
static int sequence(const unsigned char* s)
{
    static const unsigned long least[] = {0, 0, 0x80, 0x800, 0x10000};
    int length = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : (s[0] & 0xf8) == 0xf0 ? 4 : 0;
    unsigned long point = length == 1 ? s[0] : s[0] & (0x7fu >> length);
    int i;
    for (i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        point = point << 6 | (s[i] & 0x3f);
    }
    if (length == 0 || point < least[length] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return 0;
    return length;
}

static bool is_utf8(const char* text)
{
    const unsigned char* s = (const unsigned char*)text;
    while (*s != 0) {
        int length = sequence(s);
        if (length == 0) return false;
        s += length;
    }
    return true;
}

/* A model with random weights at the highest temperature writes every byte there is. */
static void always_whole_utf8(CudaModel* model)
{
    int seed, replaced = 0;
    for (seed = 0; seed < 24; seed++) {
        InferenceResult* answer = start(model, "naïve 日本 🎨", 40, 2.0f, (uint64_t)seed);
        char piece[256];
        int code = UNSET;
        while (cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code)) {
            CHECK(piece[0] != '\0' && is_utf8(piece));
            CHECK(strstr(piece, "<|") == NULL || strstr(piece, "|>") == NULL);
            replaced += strstr(piece, "\xef\xbf\xbd") != NULL;
        }
        CHECK(code == 0);
        cuda_inference_free(answer);
    }
    CHECK(replaced > 0);
}

/* The buffer is made as small as can be for each piece: nothing is written past it, nothing is lost. */
static void small_buffers(CudaModel* model, uint64_t seed)
{
    char whole[8192], parts[8192] = "", piece[64];
    InferenceResult* answer = start(model, "Hello", 32, 2.0f, seed);
    int size = 1, index = UNSET, code = UNSET, expected = 0;
    for (;;) {
        memset(piece, 'x', sizeof piece);
        index = UNSET;
        code = UNSET;
        if (cuda_inference_next_token(answer, piece, size, &index, &code)) {
            CHECK(code == 0 && index == expected++);
            CHECK((int)strlen(piece) == size - 1); /* the first size that sufficed */
            CHECK(piece[size] == 'x');
            strcat(parts, piece);
            size = 1;
        } else if (code == CUDA_ERROR_INVALID_PARAMETER) {
            CHECK(index == UNSET && piece[size] == 'x');
            size++;
            CHECK(size < (int)sizeof piece);
        } else {
            break;
        }
    }
    CHECK(code == 0);
    cuda_inference_free(answer);
    answer_of(model, "Hello", 32, 2.0f, seed, whole, sizeof whole);
    CHECK(strcmp(parts, whole) == 0);
}

static void no_buffer(CudaModel* model)
{
    InferenceResult* answer = start(model, "Hello", 8, 0.0f, 0);
    char piece[256];
    const int sizes[] = {0, -1, -256, -2147483647};
    int code, i;
    for (i = 0; i < 4; i++) {
        code = UNSET;
        piece[0] = 'x';
        CHECK(!cuda_inference_next_token(answer, piece, sizes[i], NULL, &code));
        CHECK(code == CUDA_ERROR_INVALID_PARAMETER && piece[0] == 'x');
    }
    code = UNSET;
    CHECK(!cuda_inference_next_token(answer, NULL, 256, NULL, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(cuda_inference_next_token(answer, piece, sizeof piece, &i, &code) && code == 0 && i == 0);
    cuda_inference_free(answer);
}

int main(void)
{
    CudaContext* context = open_context();
    CudaModel* model = load_model(context);
    uint64_t seed;
    always_whole_utf8(model);
    for (seed = 0; seed < 8; seed++) small_buffers(model, seed);
    no_buffer(model);
    cuda_unload_model(model);
    cuda_destroy(context);
    return 0;
}
