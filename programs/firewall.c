// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* firewall: block lists by source prefix, rules by 5-tuple, and who may reach a port.
 *
 * A packet is judged in this order, and the first answer counts:
 *   1. malformed IP or TCP/UDP headers          XDP_DROP (drop_malformed)
 *   2. source in block4 or block6               XDP_DROP
 *   3. later fragments, which have no ports     XDP_PASS (drop_fragments)
 *   4. a rule, from the most to the least special key: the whole 5-tuple; any source; any source
 *      to any address of ours                   the rule's action
 *   5. destination port with a table of its own XDP_DROP unless the source is in that table
 *   6. everything else, and all that is not IP  XDP_PASS
 *
 * Nothing is blocked before somebody fills the maps, except telnet: port 23 has a table, and that
 * table is empty.
 *
 * Maps: block4, block6 (LPM, value counts hits), rules (5-tuple to action and hits), port_tables
 * (port to LPM table of permitted sources), reasons (packets per enum reason and CPU).
 */
#include "include/flow.h"

volatile const bool drop_malformed = true;
volatile const bool drop_fragments = false;

enum reason {
	REASON_NOT_IP,
	REASON_MALFORMED,
	REASON_BLOCKED4,
	REASON_BLOCKED6,
	REASON_FRAGMENT,
	REASON_RULE,
	REASON_PORT_DENIED,
	REASON_PORT_ALLOWED,
	REASON_DEFAULT,
	REASONS,
};

struct lpm4_key {
	__u32 prefixlen;
	__be32 addr;
};

struct lpm6_key {
	__u32 prefixlen;
	__be32 addr[4];
};

/* What LPM tables hold: how often an entry decided. */
struct hits {
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lpm4_key);
	__type(value, struct hits);
} block4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lpm6_key);
	__type(value, struct hits);
} block6 SEC(".maps");

struct rule {
	__u32 action;
	__u32 zero;
	__u64 packets;
};

/* In a rule's key, "any" is all zero: {0, daddr, 0, dport, proto, family} is a service. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, struct rule);
} rules SEC(".maps");

/* Permitted sources of one port. IPv4 prefixes stand in it v4-mapped: 10.0.0.0/8 is
 * ::ffff:10.0.0.0/104.
 */
struct port_table {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lpm6_key);
	__type(value, struct hits);
} telnet_clients SEC(".maps");

/* libbpf fills a map of maps by index, which makes the index of an initialiser the port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 64);
	__type(key, __u32);
	__array(values, struct port_table);
} port_tables SEC(".maps") = {
	.values = { [23] = &telnet_clients },
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} reasons SEC(".maps");

static __always_inline bool hit(struct hits *entry)
{
	if (!entry)
		return false;
	__sync_fetch_and_add(&entry->packets, 1);
	return true;
}

static __noinline bool is_blocked4(__be32 addr)
{
	struct lpm4_key key = { .prefixlen = 32, .addr = addr };

	return hit(bpf_map_lookup_elem(&block4, &key));
}

static __always_inline void lpm6_of(struct lpm6_key *key, const __be32 addr[4])
{
	key->prefixlen = 128;
	__builtin_memcpy(key->addr, addr, sizeof(key->addr));
}

static __always_inline bool is_blocked6(const struct flow_key *flow)
{
	struct lpm6_key key;

	lpm6_of(&key, flow->saddr);
	return hit(bpf_map_lookup_elem(&block6, &key));
}

/* The action of the most special rule, or -1. Global, so the verifier checks it once and not
 * anew for every state in which it is called.
 */
__noinline int rule_action(const struct flow_key *flow)
{
	struct flow_key key;
	struct rule *rule;

	if (!flow)
		return -1;
	key = *flow;
	rule = bpf_map_lookup_elem(&rules, &key);
	if (!rule) {
		__builtin_memset(key.saddr, 0, sizeof(key.saddr));
		key.sport = 0;
		rule = bpf_map_lookup_elem(&rules, &key);
	}
	if (!rule) {
		__builtin_memset(key.daddr, 0, sizeof(key.daddr));
		rule = bpf_map_lookup_elem(&rules, &key);
	}
	if (!rule)
		return -1;
	__sync_fetch_and_add(&rule->packets, 1);
	return rule->action;
}

/* Whether the port's own table, if it has one, decides, and how. */
static __noinline enum reason port_reason(const struct flow_key *flow)
{
	__u32 port = bpf_ntohs(flow->dport);
	struct lpm6_key key;
	void *table;

	table = bpf_map_lookup_elem(&port_tables, &port);
	if (!table)
		return REASON_DEFAULT;
	lpm6_of(&key, flow->saddr);
	return hit(bpf_map_lookup_elem(table, &key)) ? REASON_PORT_ALLOWED : REASON_PORT_DENIED;
}

static __always_inline int verdict(enum reason reason, int action)
{
	count(&reasons, reason);
	return action;
}

SEC("xdp")
int firewall(struct xdp_md *ctx)
{
	struct flow_key flow;
	enum flow_kind kind = flow_of(ctx, &flow);
	enum reason reason;
	int action;

	if (kind == FLOW_NOT_IP)
		return verdict(REASON_NOT_IP, XDP_PASS);
	if (kind == FLOW_MALFORMED)
		return verdict(REASON_MALFORMED, drop_malformed ? XDP_DROP : XDP_PASS);
	if (flow.family == 4 && is_blocked4(flow.saddr[3]))
		return verdict(REASON_BLOCKED4, XDP_DROP);
	if (flow.family == 6 && is_blocked6(&flow))
		return verdict(REASON_BLOCKED6, XDP_DROP);
	if (kind == FLOW_FRAGMENT)
		return verdict(REASON_FRAGMENT, drop_fragments ? XDP_DROP : XDP_PASS);

	action = rule_action(&flow);
	if (action >= 0)
		return verdict(REASON_RULE, action);
	reason = port_reason(&flow);
	return verdict(reason, reason == REASON_PORT_DENIED ? XDP_DROP : XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
