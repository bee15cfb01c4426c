/* common/image/deid/text_reader.h - can a line be read? Debian's tesseract, by its C interface.
 *
 * Language data is read when the reader is opened, so that a sandbox may lock itself in after;
 * models are made at the first line (20 MiB, 0.1 s each). The process needs OMP_THREAD_LIMIT=1 in
 * its environment where it may not start threads. One thread. */
#pragma once
#include "common/base/rc.h"

struct text_reader;
/* dir NULL: Debian's. English and Japanese. RC_NOTFOUND names the package. */
MUST_CHECK enum rc text_reader_open(const char *dir, struct text_reader **ret, struct err *reterr);
void text_reader_close(struct text_reader *r); /* NULL is fine */
/* Does a line of grey pixels, dark on white, say something? RC_NOMEM, RC_INTERNAL (the engine
 * cannot start). */
MUST_CHECK enum rc text_reader_read(struct text_reader *r, const uint8_t *grey, uint32_t width,
                                    uint32_t height, bool *ret_text, struct err *reterr);
