// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The frame pointer is written.
//
// Rejected: EB0202 at line 11
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	asm volatile("r10 += -8");
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	asm volatile("r2 = r10; r2 += -8" ::: "r2");
	return XDP_PASS;
}
