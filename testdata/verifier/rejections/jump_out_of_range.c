// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Jump or call to where no instruction begins.
//
// Rejected: EB0103 at line 11
#include "rejection.h"

SEC("xdp")
__naked int refused(struct xdp_md *ctx)
{
	asm volatile("goto +5; r0 = 2; exit");
}

SEC("xdp")
__naked int mended(struct xdp_md *ctx)
{
	asm volatile("goto 1f; 1: r0 = 2; exit");
}
