// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Access outside of the stack frame.
//
// Rejected: EB0303 at line 11
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	asm volatile("*(u64 *)(r10 - 520) = %0" : : "r"(1ULL));
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	asm volatile("*(u64 *)(r10 - 512) = %0" : : "r"(1ULL));
	return XDP_PASS;
}
