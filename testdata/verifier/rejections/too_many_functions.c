// SPDX-License-Identifier: MIT OR Apache-2.0
//
// More functions than a program may have.
//
// Rejected: EB1004 at line 28
#include "rejection.h"

#define FUNCTION(n) \
	static __noinline int f##n(struct xdp_md *ctx) \
	{ \
		hide_address(ctx); \
		return ctx->rx_queue_index == 0x##n; \
	}
#define CALL(n) sum += f##n(ctx);

#define SIXTEEN(F, n) \
	F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) \
	F(n##8) F(n##9) F(n##a) F(n##b) F(n##c) F(n##d) F(n##e) F(n##f)
#define ALL(F, n) \
	SIXTEEN(F, n##0) SIXTEEN(F, n##1) SIXTEEN(F, n##2) SIXTEEN(F, n##3) \
	SIXTEEN(F, n##4) SIXTEEN(F, n##5) SIXTEEN(F, n##6) SIXTEEN(F, n##7) \
	SIXTEEN(F, n##8) SIXTEEN(F, n##9) SIXTEEN(F, n##a) SIXTEEN(F, n##b) \
	SIXTEEN(F, n##c) SIXTEEN(F, n##d) SIXTEEN(F, n##e) SIXTEEN(F, n##f)

ALL(FUNCTION, 1)

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	int sum = 0;

	ALL(CALL, 1) /* 256 functions, and this one */
	return sum ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	int sum = 0;

	SIXTEEN(CALL, 10)
	return sum ? XDP_DROP : XDP_PASS;
}
