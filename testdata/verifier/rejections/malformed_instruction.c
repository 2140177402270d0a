// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Malformed instruction.
//
// Rejected: EB0101 at line 12
#include "rejection.h"

SEC("xdp")
__naked int refused(struct xdp_md *ctx)
{
	/* r0 = r1 with an immediate, which a move of a register does not have */
	asm volatile(".8byte 0x00000001000010bf; r0 = 2; exit");
}

SEC("xdp")
__naked int mended(struct xdp_md *ctx)
{
	asm volatile("r0 = r1; r0 = 2; exit");
}
