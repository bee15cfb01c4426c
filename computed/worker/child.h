/* computed/worker/child.h - the process that parses strangers' bytes: `computed --child BACKEND
 * ADDRESS_BYTES_MAX PRECISION`.
 *
 * It opens the device, locks itself in (sandbox.h), loads the model from WIRE_MODEL_FD, then scores
 * images one after the other; their bytes come through WIRE_FD, in the ranges that the reader asks
 * for. One thread, everything blocks. It ends when the daemon closes the socket. */
#pragma once
#include "computed/backend/backend.h"

#define CHILD_FLAG "--child"

/* Exit code: 0, or 1 when the socket broke or the sandbox was refused. */
int child_main(const char *backend, const char *address_bytes_max, const char *precision);
/* "fp32" or "bf16"; false: another word. */
bool child_precision(const char *text, enum be_precision *ret);
