// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Return value of the wrong kind or range.
//
// Rejected: EB0803 at line 10
#include "rejection.h"

static long visit(__u32 turn, void *arg)
{
	return 5;
}

static long visit_all(__u32 turn, void *arg)
{
	return 0;
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	bpf_loop(10, visit, NULL, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	bpf_loop(10, visit_all, NULL, 0);
	return XDP_PASS;
}
