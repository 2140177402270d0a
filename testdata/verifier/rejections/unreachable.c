// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Instructions that nothing leads to.
//
// Rejected: EB0104 at line 11
#include "rejection.h"

SEC("xdp")
__naked int refused(struct xdp_md *ctx)
{
	asm volatile("r0 = 2; exit; r0 = 1; exit");
}

SEC("xdp")
__naked int mended(struct xdp_md *ctx)
{
	asm volatile("r0 = 2; if r1 != 0 goto 1f; r0 = 1; 1: exit");
}
