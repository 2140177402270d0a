// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Write to what can only be read, or read of what can only be written.
//
// Rejected: EB0411 at line 14
#include "rejection.h"

const volatile __u32 limit = 5;
__u32 used = 5;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	*(volatile __u32 *)&limit = 3;
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	used = limit;
	return XDP_PASS;
}
