/* common/base/hex.h - lower-case hexadecimal. */
#pragma once
#include "common/base/macros.h"

void hex_encode(const uint8_t *p, size_t n, char *text); /* text holds 2 n + 1 bytes */
/* n_text digits (even); upper case accepted. False: text is no hex, out undefined. */
bool hex_decode(const char *text, size_t n_text, uint8_t *out);
