typedef struct sp_sha256_variant {
    const char *name;
    void (*transform)(uint32_t *h, const uint8_t *data, size_t blocks);
    void (*pairs)(uint8_t *out, const uint8_t *in, size_t count);
    unsigned lanes;
    ...;
} sp_sha256_variant;

typedef struct sp_sha256_choice {
    const sp_sha256_variant *stream;
    const sp_sha256_variant *pairs[2];
    const sp_sha256_variant *messages[2];
    size_t pairs_from, messages_from;
} sp_sha256_choice;

typedef struct sp_sha256_message {
    const uint8_t *data;
    size_t length;
    uint8_t *out;
} sp_sha256_message;

const sp_sha256_choice *sp_sha256_chosen(void);
const sp_sha256_variant *sp_sha256_variant_at(int index);
const char *sp_sha256_known_at(int index);
int sp_sha256_force(const char *name);
const char *sp_sha256_name(void);
int sp_sha256_choose(sp_sha256_choice *choice);

void sp_sha256(uint8_t *out, const uint8_t *data, size_t length);
void sp_sha256d(uint8_t *out, const uint8_t *data, size_t length);
void sp_sha256d_pairs(uint8_t *out, const uint8_t *in, size_t count);
void sp_sha256d_messages(const sp_sha256_message *messages, size_t count);
void sp_sha256d_messages_by(const sp_sha256_variant *wide, const sp_sha256_variant *narrow,
                            size_t from, const sp_sha256_message *messages, size_t count);
