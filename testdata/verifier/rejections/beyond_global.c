// SPDX-License-Identifier: MIT OR Apache-2.0
//
// An address beyond the variables that it is counted from.
//
// Rejected: EB0110 at line 15
#include "rejection.h"

int table[4];

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	int *entry;

	asm volatile("%0 = table + 4000 ll" : "=r"(entry));
	return *entry ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	int *entry;

	asm volatile("%0 = table + 12 ll" : "=r"(entry));
	return *entry ? XDP_DROP : XDP_PASS;
}
