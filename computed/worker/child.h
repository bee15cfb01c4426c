/* computed/worker/child.h - the process that parses strangers' bytes: `computed --child BACKEND
 * ADDRESS_BYTES_MAX`.
 *
 * It is told the job (wire.h), opens the device, locks itself in (sandbox.h), loads the model from
 * WIRE_MODEL_FD, then scores images one after the other; their bytes come through WIRE_FD, in the
 * ranges that the reader asks for. One thread, everything blocks. It ends when the daemon closes
 * the socket. */
#pragma once
#include "common/base/macros.h"

#define CHILD_FLAG "--child"
#define PROBE_FLAG "--probe" /* `computed --probe BACKEND` */

/* Exit code: 0, or 1 when the socket broke or the sandbox was refused. */
int child_main(const char *backend, const char *address_bytes_max);
/* Is there such a device? Prints its name ("cpu (oneDNN 2.6.3)"), or why there is none; exit code 0
 * or 1. In a process of its own: a device's library changes the one that loads it. */
int child_probe(const char *backend);
