// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Callback that cannot be one.
//
// Rejected: EB0804 at line 21
#include "rejection.h"

__noinline long visit(__u32 turn, void *arg)
{
	return 0;
}

static long visit_here(__u32 turn, void *arg)
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
	bpf_loop(10, visit_here, NULL, 0);
	return XDP_PASS;
}
