// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Pointer to the stack outlives its function.
//
// Rejected: EB0305 at line 12
#include "rejection.h"

static __noinline int give(void **to)
{
	volatile int local = 1;

	*to = (void *)&local;
	return local;
}

static __noinline int fill(int *to)
{
	*to = 1;
	return 0;
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	void *got = NULL;

	give(&got);
	return got ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	int got = 0;

	fill(&got);
	return got ? XDP_PASS : XDP_DROP;
}
