// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* legacy_xsk: the AF_XDP program of old tutorials, in the form of its time.
 *
 * The map is defined by the record below in a section "maps", without type information, and the
 * program's section has a name of its own making. libbpf 1.0 gave both up; objects of this kind
 * are still around, and this one keeps loaders honest. What it does: see xsk_redirect.
 */
#include "include/base.h"

/* Five words, as libbpf once laid them down. */
struct bpf_map_def {
	unsigned int type;
	unsigned int key_size;
	unsigned int value_size;
	unsigned int max_entries;
	unsigned int map_flags;
};

struct bpf_map_def SEC("maps") xsks_map = {
	.type = BPF_MAP_TYPE_XSKMAP,
	.key_size = sizeof(int),
	.value_size = sizeof(int),
	.max_entries = 64,
};

SEC("xdp_sock")
int xdp_sock_prog(struct xdp_md *ctx)
{
	int index = ctx->rx_queue_index;

	if (bpf_map_lookup_elem(&xsks_map, &index))
		return bpf_redirect_map(&xsks_map, index, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
