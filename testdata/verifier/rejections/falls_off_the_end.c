// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Control falls off the end of a function.
//
// Rejected: EB0105 at line 11
#include "rejection.h"

SEC("xdp")
__naked int refused(struct xdp_md *ctx)
{
	asm volatile("r0 = 2");
}

SEC("xdp")
__naked int mended(struct xdp_md *ctx)
{
	asm volatile("r0 = 2; exit");
}
