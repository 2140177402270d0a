// SPDX-License-Identifier: MIT OR Apache-2.0
//
// An arena's address in a program without an arena.
//
// Rejected: EB0416 at line 23
#include "rejection.h"

#define __arena __attribute__((address_space(1)))

struct {
	__uint(type, 33); /* BPF_MAP_TYPE_ARENA: Debian 12's <linux/bpf.h> has not got it. */
	__uint(map_flags, BPF_F_MMAPABLE);
	enum { user_address = 1ull << 44 } map_extra; /* __ulong() of newer headers */
	__uint(max_entries, 1);
} arena SEC(".maps");

/* No arena map in this program: nothing says which arena is meant. */
SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 __arena *shared = (__u32 __arena *)(long)ctx->rx_queue_index;

	return *shared ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 __arena *shared = (__u32 __arena *)(long)ctx->rx_queue_index;

	hide_address(&arena);
	return *shared ? XDP_PASS : XDP_DROP;
}
