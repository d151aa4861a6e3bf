/* Redirects each 64-byte frame of a sendmsg() to the socket of its destination, in the kernel.
 *
 * The program is attached to the sockhash `endpoints` and runs in the sender's context. Only stable UAPI is used (no
 * BTF, no kernel structures), so one object serves every kernel from 5.15 on. The maps are created by the loader
 * (sockmap.py describes them); here they are symbols, or file descriptors under BCC.
 *
 * The verdict is never SK_DROP: a drop makes every later send() on the socket fail with EACCES until the socket is
 * removed from the map. What cannot be redirected passes to the TCP peer, which is the node agent.
 */
#include <linux/bpf.h>

#define FRAME_BYTES 64

struct flow { /* identifies the sending socket; the values are as in struct sk_msg_md */
	__u64 netns_cookie;
	__u32 local_ip4;
	__u32 remote_ip4;
	__u32 local_port;
	__u32 remote_port;
};

struct source {
	__u32 id; /* 0: the agent, which may send on behalf of any endpoint to any endpoint */
	__u32 tenant;
};

struct route {
	__u32 tenant;
	__u32 dst;
};

struct counts {
	__u64 redirected; /* frames of this source delivered by the kernel */
	__u64 passed;     /* frames of this source left to the agent */
	__u64 forged;     /* of these: the frame's src was not this endpoint */
	__u64 received;   /* frames delivered to this endpoint by the kernel */
};

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect_hash)(void *msg, void *map, void *key, __u64 flags) = (void *)BPF_FUNC_msg_redirect_hash;
static long (*apply_bytes)(void *msg, __u32 bytes) = (void *)BPF_FUNC_msg_apply_bytes;
static long (*pull_data)(void *msg, __u32 start, __u32 end, __u64 flags) = (void *)BPF_FUNC_msg_pull_data;
static __u64 (*netns_cookie)(void *msg) = (void *)BPF_FUNC_get_netns_cookie;

#ifdef HEADRACE_BCC
#define MAP(name) ((void *)bpf_pseudo_fd(1, name##_FD))
#else
extern char endpoints, sources, routes, counters;
#define MAP(name) ((void *)&name)
#endif
#define COUNT(counts, field)                                         \
	do {                                                         \
		if (counts)                                          \
			__sync_fetch_and_add(&(counts)->field, 1);   \
	} while (0)

#ifndef HEADRACE_BCC
__attribute__((section("sk_msg"), used))
#endif
int redirect(struct sk_msg_md *msg)
{
	struct flow flow = {};
	struct source *source;
	struct route route;
	struct counts *sent, *received;
	__u32 dst, src;
	__u32 *ids;

	/* The verdict holds for 64 bytes, also when they come in two sends: the program always runs at the start of a
	 * frame, and two frames in one send have a verdict each. A frame whose first part is shorter passes whole. */
	apply_bytes(msg, FRAME_BYTES);
	if (msg->size < FRAME_BYTES)
		return SK_PASS;
	if (msg->data + FRAME_BYTES > msg->data_end && pull_data(msg, 0, FRAME_BYTES, 0))
		return SK_PASS; /* a frame may lie across two pages */
	if (msg->data + FRAME_BYTES > msg->data_end)
		return SK_PASS;
	ids = msg->data;
	dst = ids[0];
	src = ids[1];

	flow.netns_cookie = netns_cookie(msg);
	flow.local_ip4 = msg->local_ip4;
	flow.remote_ip4 = msg->remote_ip4;
	flow.local_port = msg->local_port;
	flow.remote_port = msg->remote_port;
	source = map_lookup(MAP(sources), &flow);
	if (!source)
		return SK_PASS;

	sent = map_lookup(MAP(counters), &source->id);
	if (source->id) {
		if (src != source->id) {
			COUNT(sent, forged);
			COUNT(sent, passed);
			return SK_PASS;
		}
		route.tenant = source->tenant;
		route.dst = dst;
		if (!map_lookup(MAP(routes), &route)) {
			COUNT(sent, passed); /* `forbidden` is the agent's to say: dst may be remote or unknown */
			return SK_PASS;
		}
	}
	if (redirect_hash(msg, MAP(endpoints), &dst, BPF_F_INGRESS) != SK_PASS) {
		COUNT(sent, passed);
		return SK_PASS;
	}
	COUNT(sent, redirected);
	received = map_lookup(MAP(counters), &dst);
	COUNT(received, received);
	return SK_PASS;
}

#ifndef HEADRACE_BCC
/* `make bpf` records which source was compiled; a test compares it with this file. */
char source_sha256[] __attribute__((section("source"), used)) = SOURCE_SHA256;
char program_license[] __attribute__((section("license"), used)) = "Apache-2.0";
#endif
