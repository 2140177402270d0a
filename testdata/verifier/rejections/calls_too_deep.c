// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Calls nested too deeply.
//
// Rejected: EB1003 at line 9
#include "rejection.h"

static __noinline int f8(struct xdp_md *ctx) { hide(ctx); return ctx->rx_queue_index; }
static __noinline int f7(struct xdp_md *ctx) { hide(ctx); return f8(ctx) + 7; }
static __noinline int f6(struct xdp_md *ctx) { hide(ctx); return f7(ctx) + 6; }
static __noinline int f5(struct xdp_md *ctx) { hide(ctx); return f6(ctx) + 5; }
static __noinline int f4(struct xdp_md *ctx) { hide(ctx); return f5(ctx) + 4; }
static __noinline int f3(struct xdp_md *ctx) { hide(ctx); return f4(ctx) + 3; }
static __noinline int f2(struct xdp_md *ctx) { hide(ctx); return f3(ctx) + 2; }
static __noinline int f1(struct xdp_md *ctx) { hide(ctx); return f2(ctx) + 1; }

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	return f1(ctx) ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	return f2(ctx) ? XDP_PASS : XDP_DROP;
}
