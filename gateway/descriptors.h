/* gateway/descriptors.h - the FileDescriptorSet of proto/, for reflection. */
#pragma once
#include "common/base/macros.h"

struct slice gateway_descriptors(void);
