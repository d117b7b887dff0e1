// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Replays in the kernel the flows that the daemon has approved. Three programs, one for each kind of place that such a packet
// passes: the egress of the sender's NIC, a machine's end of a cable, the sender's and then the receiver's, and in between the
// fabric's end of the sender's cable.
// Whatever is not exactly a packet of an approved flow goes on to the NIC's queue, where the daemon reads it.
//
// daemon/src/offload/layout.rs has the same layout of the maps, daemon/src/offload/equipment.rs the same numbering of
// interfaces. Needs Linux 5.12 (atomics that fetch).

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
// The forms in which the loader reads a map's description off the types.
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(x) ((__be16)__builtin_bswap16(x))
#else
#define NET16(x) ((__be16)(x))
#endif
#define HOST16(x) ((__u16)NET16(x))

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const change_head)(struct __sk_buff *skb, __u32 bytes, __u64 flags) = (void *)BPF_FUNC_skb_change_head;
static long (*const redirect)(__u32 interface, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const redirect_peer)(__u32 interface, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*const read_kernel)(void *to, __u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static __u64 (*const coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;

#define WAYS 8
#define BUCKETS 8192
#define KEY_WORDS 6
// A device's cable has the device's number and this.
#define CABLE_OFFSET 0x10000
// Marks packets of nic_egress on their way over the cables.
#define DEPARTING 0x766e
#define ARRIVING 0x766f

struct slot {
	// {NIC, protocol, version}, ports, source, destination; addresses and ports as in the packet.
	__u64 key[KEY_WORDS];
	// Interface of the fabric's end of the receiver's cable.
	__u32 target;
	__u32 ttl_decrement;
	__u64 packets;
	__u64 bytes;
	__u64 last_seen_ns;
};

struct bucket {
	// Epoch and hash; 0 where the slot is not in use. One comparison tells whether a slot counts and may be the flow's.
	__u64 tag[WAYS];
	struct slot slot[WAYS];
};

struct control {
	__u32 epoch;
	__u32 mask;
	__u64 seed;
	// Which programs these are.
	__u64 version;
};

struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct control);
} control SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(map_flags, BPF_F_MMAPABLE);
	UINT(max_entries, BUCKETS);
	TYPE(key, __u32);
	TYPE(value, struct bucket);
} buckets SEC(".maps");

// Set by the loader where the kernel describes its types: then the members below are where that description says.
const volatile __u32 types_known = 0;
// The lab's own number, set by the loader: what is written to a cable by others does not bear it.
const volatile __u64 secret = 0;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct list_head {
	struct list_head *next;
};
struct net {
	struct list_head ptype_all;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct Qdisc;
struct net_device {
	struct list_head ptype_all;
	struct Qdisc *qdisc;
	possible_net_t nd_net;
};
struct Qdisc_ops {
	char id[16];
};
struct Qdisc {
	const struct Qdisc_ops *ops;
	__u32 handle;
};
struct sk_buff {
	struct net_device *dev;
};
#pragma clang attribute pop

#define FIELD_EXISTS 2
#define HAS(type, member) __builtin_preserve_field_info(((struct type *)0)->member, FIELD_EXISTS)

// Stands where Ethernet's header would on the cables.
struct cable_header {
	__u32 target;
	__u64 secret;
	__be16 protocol;
} __attribute__((packed));

struct packet {
	__u64 key[KEY_WORDS];
	__u32 header_bytes;
	__u32 ttl;
};

// `length` is what the IP header says of the bytes from `start` on.
INLINE int parse_transport(void *start, void *end, __u8 protocol, __u32 length, struct packet *packet)
{
	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = start;

		// A segment of an established connection that changes nothing of its state.
		if ((void *)(tcp + 1) > end || tcp->syn || tcp->fin || tcp->rst || !tcp->ack || tcp->doff < 5 ||
		    tcp->doff * 4 > length)
			return 0;
		packet->header_bytes += tcp->doff * 4;
	} else if (protocol == IPPROTO_UDP) {
		struct udphdr *udp = start;

		if ((void *)(udp + 1) > end || HOST16(udp->len) != length)
			return 0;
		packet->header_bytes += sizeof(struct udphdr);
	} else {
		return 0;
	}
	packet->key[1] = *(__u32 *)start;
	return 1;
}

INLINE int parse(struct __sk_buff *skb, struct packet *packet)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u64 nic = (__u64)skb->tc_classid << 32;

	if (skb->protocol == NET16(ETH_P_IP)) {
		struct iphdr *ip = data;

		// Without options, not a fragment, and as long as it says.
		if ((void *)(ip + 1) > end || *(__u8 *)data != 0x45 || (ip->frag_off & NET16(0x3fff)) ||
		    HOST16(ip->tot_len) != skb->len)
			return 0;
		packet->key[0] = nic | ip->protocol << 8 | 4;
		packet->key[2] = ip->saddr;
		packet->key[3] = 0;
		packet->key[4] = ip->daddr;
		packet->key[5] = 0;
		packet->ttl = ip->ttl;
		packet->header_bytes = sizeof(*ip);
		return parse_transport(ip + 1, end, ip->protocol, skb->len - sizeof(*ip), packet);
	}
	if (skb->protocol == NET16(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;
		__u64 *addresses = data + 8;

		if ((void *)(ip + 1) > end || ip->version != 6 || HOST16(ip->payload_len) + sizeof(*ip) != skb->len)
			return 0;
		packet->key[0] = nic | ip->nexthdr << 8 | 6;
		packet->key[2] = addresses[0];
		packet->key[3] = addresses[1];
		packet->key[4] = addresses[2];
		packet->key[5] = addresses[3];
		packet->ttl = ip->hop_limit;
		packet->header_bytes = sizeof(*ip);
		return parse_transport(ip + 1, end, ip->nexthdr, skb->len - sizeof(*ip), packet);
	}
	return 0;
}

INLINE int matches(const struct slot *slot, const struct packet *packet)
{
	__u64 difference = 0;

#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		difference |= slot->key[i] ^ packet->key[i];
	return !difference;
}

INLINE struct slot *find(const struct packet *packet)
{
	__u32 zero = 0;
	struct control *in_force = map_lookup(&control, &zero);

	if (!in_force)
		return (void *)0;
	__u64 hash = in_force->seed;

#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++) {
		hash = (hash ^ packet->key[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 32;
	}
	__u32 index = hash >> 32 & in_force->mask;
	__u64 tag = (__u64)in_force->epoch << 32 | (__u32)hash;
	struct bucket *bucket = map_lookup(&buckets, &index);

	if (!bucket)
		return (void *)0;
#pragma unroll
	for (int way = 0; way < WAYS; way++)
		if (*(volatile __u64 *)&bucket->tag[way] == tag && matches(&bucket->slot[way], packet))
			return &bucket->slot[way];
	return (void *)0;
}

INLINE int is_filled(const struct list_head *list)
{
	const struct list_head *next = list;

	read_kernel(&next, sizeof(next), &list->next);
	return next != list;
}

// Whether a NIC has another queueing discipline than the kernel's own, which have no handle, and the daemon's, which is none.
INLINE int is_queued(struct net_device *device)
{
	const struct Qdisc_ops *ops = (void *)0;
	struct Qdisc *qdisc = (void *)0;
	__u32 handle = 0;
	union {
		char letters[8];
		__u64 word;
	} none = {"noqueue"}, found = {""};

	read_kernel(&qdisc, sizeof(qdisc), &device->qdisc);
	if (!qdisc)
		return 0;
	read_kernel(&handle, sizeof(handle), &qdisc->handle);
	if (!handle)
		return 0;
	read_kernel(&ops, sizeof(ops), &qdisc->ops);
	if (ops)
		read_kernel(&found, sizeof(found), &ops->id);
	return found.word != none.word;
}

// Whether the machine wants to have its hands on what leaves: a packet socket listens on the NIC, as tcpdump's does, or the NIC
// has a queueing discipline of its user's. Both come behind this program, so such a NIC's packets take the way past it.
INLINE int is_watched(struct __sk_buff *skb)
{
	struct net_device *device = (void *)0;
	struct net *net = (void *)0;

	if (!types_known || !HAS(net_device, ptype_all))
		return 0;
	read_kernel(&device, sizeof(device), &((struct sk_buff *)(void *)skb)->dev);
	if (!device)
		return 0;
	if (is_queued(device) || is_filled(&device->ptype_all))
		return 1;
	// Linux 6.17: sockets of all devices, by namespace.
	if (!HAS(net, ptype_all))
		return 0;
	read_kernel(&net, sizeof(net), &device->nd_net.net);
	return net && is_filled(&net->ptype_all);
}

INLINE void lower_ttl(void *data, void *end, __be16 protocol, __u8 by)
{
	if (protocol == NET16(ETH_P_IP)) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end)
			return;
		// RFC 1624: what the header's sum loses, its checksum gains.
		__u32 check = ip->check + (__u32)NET16(by << 8);

		ip->check = check + (check >= 0xffff);
		ip->ttl -= by;
	} else {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) <= end)
			ip->hop_limit -= by;
	}
}

// Egress of a NIC; its class is the NIC's number.
SEC("classifier")
int nic_egress(struct __sk_buff *skb)
{
	struct packet packet;

	if (!parse(skb, &packet))
		return TC_ACT_OK;
	struct slot *slot = find(&packet);

	if (!slot)
		return TC_ACT_OK;
	__u32 bytes = skb->len, count = 1, segment = skb->gso_size, lower = slot->ttl_decrement;
	__u32 cable = skb->ifindex + CABLE_OFFSET;
	__be16 protocol = skb->protocol;

	if (lower && packet.ttl <= lower)
		return TC_ACT_OK;
	__u64 now = coarse_ns();

	// The clock moves some hundred times a second, and so often is looked for sockets while a flow is busy.
	if (now != slot->last_seen_ns && is_watched(skb))
		return TC_ACT_OK;
	if (segment) {
		count = (bytes - packet.header_bytes + segment - 1) / segment;
		if (count)
			bytes += (count - 1) * packet.header_bytes;
		else
			count = 1;
	}
	if (change_head(skb, sizeof(struct cable_header), 0))
		return TC_ACT_OK;
	struct cable_header *header = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if ((void *)(header + 1) > end)
		return TC_ACT_SHOT;
	// A fetch is a full barrier: the target is read after the tag that vouches for it.
	__u64 before = __sync_fetch_and_add(&slot->packets, count);

	asm volatile("" : : "r"(before) : "memory");
	__sync_fetch_and_add(&slot->bytes, bytes);
	slot->last_seen_ns = now;
	header->target = slot->target;
	header->secret = secret;
	header->protocol = protocol;
	if (lower)
		lower_ttl(header + 1, end, protocol, lower);
	skb->tc_index = DEPARTING;
	// What the sender's machine has noted of its packet is nothing to the receiver's.
	skb->mark = 0;
	skb->priority = 0;
	// As if the cable had received it: its queue would cost more than the turn through its ingress.
	return redirect(cable, BPF_F_INGRESS);
}

// Ingress of a machine's end of a cable: from the NIC to the other end, or from the fabric to the NIC that the cable belongs to.
SEC("classifier")
int nic_ingress(struct __sk_buff *skb)
{
	if (skb->tc_index == DEPARTING)
		return redirect_peer(skb->ifindex, 0);
	if (skb->tc_index != ARRIVING)
		return TC_ACT_SHOT;
	skb->tc_index = 0;
	// A time of departure that the sender's socket has asked for.
	skb->tstamp = 0;
	return redirect(skb->ifindex - CABLE_OFFSET, BPF_F_INGRESS);
}

// Ingress of the fabric's end of a cable.
SEC("classifier")
int fabric_ingress(struct __sk_buff *skb)
{
	struct cable_header *header = (void *)(long)skb->data;

	if (skb->tc_index != DEPARTING || (void *)(header + 1) > (void *)(long)skb->data_end ||
	    header->secret != secret)
		return TC_ACT_SHOT;
	// The receiver's machine need not see it.
	header->secret = 0;
	skb->tc_index = ARRIVING;
	return redirect_peer(header->target, 0);
}

char licence[] SEC("license") = "Dual MIT/GPL";
