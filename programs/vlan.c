// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* vlan_push and vlan_pop: the two ends of an access port.
 *
 * vlan_push puts the tag push_vid in front of every frame and sends it to the trunk port, entry 0
 * of the map trunk; while that is empty the tagged frame passes. A frame that has a tag already
 * gets a service tag (802.1ad) around it, which is QinQ.
 *
 * vlan_pop takes the outermost tag off and passes the frame, with the tag kept as metadata in
 * front of the frame, where a program behind it (tc, or an AF_XDP application) still finds it.
 * Frames without a tag pass untouched, frames of VLAN 4095, which is reserved, are dropped.
 *
 * Maps: trunk, vids (frames popped per VLAN id).
 */
#include "include/parse.h"

volatile const __u16 push_vid = 100;
volatile const __u8 push_pcp = 0;

#define VID_RESERVED 4095

/* What vlan_pop leaves in front of a frame; 4 bytes, as metadata comes in words. */
struct vlan_meta {
	__be16 tpid;
	__be16 tci;
};

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} trunk SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VLAN_VID_MASK + 1);
	__type(key, __u32);
	__type(value, __u64);
} vids SEC(".maps");

/* Counters without a map of their own: libbpf makes one of .bss. */
__u64 pushed;
__u64 no_room;

struct tagged {
	struct ethhdr eth;
	struct vlan_hdr vlan;
};

SEC("xdp")
int vlan_push(struct xdp_md *ctx)
{
	struct tagged *frame;
	struct ethhdr old;
	struct cursor c;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(frame->vlan))) {
		__sync_fetch_and_add(&no_room, 1);
		return XDP_DROP;
	}
	c = frame_start(ctx);
	frame = take(&c, sizeof(*frame));
	if (!frame)
		return XDP_ABORTED;

	/* The old Ethernet header overlaps the tag. */
	__builtin_memcpy(&old, (void *)frame + sizeof(frame->vlan), sizeof(old));
	frame->eth = old;
	frame->eth.h_proto = bpf_htons(is_vlan(old.h_proto) ? ETH_P_8021AD : ETH_P_8021Q);
	frame->vlan.tci = bpf_htons(push_pcp << VLAN_PCP_SHIFT | (push_vid & VLAN_VID_MASK));
	frame->vlan.proto = old.h_proto;
	__sync_fetch_and_add(&pushed, 1);
	return bpf_redirect_map(&trunk, 0, XDP_PASS);
}

/* Metadata is a service, not a promise: where the device has none, the frame goes on without. */
static __always_inline void leave_meta(struct xdp_md *ctx, const struct vlan_meta *tag)
{
	struct vlan_meta *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)))
		return;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return;
	*meta = *tag;
}

SEC("xdp")
int vlan_pop(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	struct ethhdr *eth, old;
	struct vlan_meta tag;
	struct vlan_hdr *vlan;
	__u64 *frames;
	__be16 proto;
	__u32 vid;

	eth = take_eth(&c, &proto);
	if (!eth || !is_vlan(proto))
		return XDP_PASS;
	vlan = take(&c, sizeof(*vlan));
	if (!vlan)
		return XDP_DROP;
	tag.tpid = proto;
	tag.tci = vlan->tci;
	vid = bpf_ntohs(vlan->tci) & VLAN_VID_MASK;
	if (vid == VID_RESERVED)
		return XDP_DROP;
	frames = bpf_map_lookup_elem(&vids, &vid);
	if (frames)
		__sync_fetch_and_add(frames, 1);

	old = *eth;
	old.h_proto = vlan->proto;
	if (bpf_xdp_adjust_head(ctx, sizeof(*vlan)))
		return XDP_DROP;
	c = frame_start(ctx);
	eth = take(&c, sizeof(*eth));
	if (!eth)
		return XDP_DROP;
	*eth = old;
	leave_meta(ctx, &tag);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
