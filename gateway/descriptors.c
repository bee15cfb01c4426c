/* gateway/descriptors.c - proto/mikura.fds (made at build time) as bytes of the program, for server
 * reflection. The assembler includes the file, so that no generator is needed. */
#include "gateway/descriptors.h"

__asm__(".section .rodata\n"
        ".balign 16\n"
        ".hidden mikura_fds_begin\n"
        ".globl mikura_fds_begin\n"
        "mikura_fds_begin:\n"
        ".incbin \"" MIKURA_FDS_PATH "\"\n"
        ".hidden mikura_fds_end\n"
        ".globl mikura_fds_end\n"
        "mikura_fds_end:\n"
        ".byte 0\n"
        ".text\n");
extern const uint8_t mikura_fds_begin[], mikura_fds_end[];

struct slice gateway_descriptors(void)
{
    return (struct slice){mikura_fds_begin,
                          (size_t)((uintptr_t)mikura_fds_end - (uintptr_t)mikura_fds_begin)};
}
