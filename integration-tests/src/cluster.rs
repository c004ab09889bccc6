//! An etcd cluster of a test's own, with members that can be killed, frozen and cut off.
//!
//! The members have fixed addresses on a network of their own and tests talk to these addresses: a
//! published port would change when a member comes back.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use testcontainers::core::Mount;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use crate::docker::{RUN_LABEL, docker, docker_now, in_network_of, run_name};
use crate::etcd::{DATA_DIR, START, answers, client, etcd_request, member_id};
use crate::eventually;

/// Clusters at a time. Two cores carry two; with more, elections fail for want of CPU and tests with them.
static ROOM: Semaphore = Semaphore::const_new(2);

/// How long one member may take to tell its state, before it counts as away.
const STATUS: Duration = Duration::from_millis(500);

/// A real etcd cluster. Members are known by their index; it goes away with its value.
pub struct EtcdCluster {
    members: Vec<Member>,
    network: String,
    _room: SemaphorePermit<'static>,
}

struct Member {
    container: ContainerAsync<GenericImage>,
    address: Ipv4Addr,
    id: u64,
}

impl EtcdCluster {
    /// Starts `size` members, and waits until each answers and they have a leader.
    ///
    /// # Panics
    /// When the cluster does not come up in time.
    pub async fn start(size: u8) -> Self {
        let room = ROOM.acquire().await.expect("the semaphore is never closed");
        let (network, first) = make_network().await;
        let addresses: Vec<_> =
            (0..size).map(|i| Ipv4Addr::from_bits(first.to_bits() + u32::from(i))).collect();
        let mut starting = JoinSet::new();
        for (index, address) in addresses.iter().copied().enumerate() {
            let (network, peers) = (network.clone(), peer_list(&addresses));
            starting.spawn(
                async move { (index, Member::start(index, address, &network, peers).await) },
            );
        }
        let mut members = starting.join_all().await;
        members.sort_by_key(|(index, _member)| *index);
        let members = members.into_iter().map(|(_index, member)| member).collect();
        let mut cluster = Self { members, network, _room: room };
        for member in &mut cluster.members {
            member.id = answers(&member.endpoint()).await;
        }
        cluster.leader().await;
        cluster
    }

    /// The name of its network, which has room for seven more.
    pub(crate) fn network(&self) -> &str {
        &self.network
    }

    /// The URL of every member, in the order of their indices.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// The URL of one member.
    pub fn endpoint(&self, index: usize) -> String {
        self.members[index].endpoint()
    }

    /// A client of one member, for what a test wants to see or do behind lockd's back.
    pub async fn client(&self, index: usize) -> etcd_client::Client {
        client(&self.endpoint(index)).await
    }

    /// The index of the leader: it answers, and a majority names it. Waits out an election.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn leader(&self) -> usize {
        let what = "the leader answers and a majority names it";
        eventually(what, START, async || self.agreed_leader().await).await
    }

    /// The index of the leader that follows `former`, which a test has just taken away: the others name
    /// `former` until their election timeout of a second is over.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn leader_after(&self, former: usize) -> usize {
        eventually("another member leads", START, async || {
            let leader = self.agreed_leader().await;
            leader.filter(|leader| *leader != former)
        })
        .await
    }

    /// `docker kill -s KILL`: the member is gone at once, its data stays.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn kill(&self, index: usize) {
        docker(&["kill", "-s", "KILL", self.id(index)]).await.expect("the member runs");
    }

    /// Starts a killed member on its data, at its address, and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub async fn start_again(&self, index: usize) {
        docker(&["start", self.id(index)]).await.expect("the member can start");
        answers(&self.endpoint(index)).await;
    }

    /// Freezes a member: its connections stay open and nothing answers.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn pause(&self, index: usize) {
        self.members[index].container.pause().await.expect("docker pause");
    }

    /// Lets a frozen member go on.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn unpause(&self, index: usize) {
        self.members[index].container.unpause().await.expect("docker unpause");
    }

    /// Cuts a member off from all others: every packet is dropped, and no peer is notified.
    ///
    /// # Panics
    /// When the packet filter cannot be set.
    pub async fn cut_off(&self, index: usize) {
        self.filter(index, &["-A", "INPUT", "-j", "DROP"]).await;
        self.filter(index, &["-A", "OUTPUT", "-j", "DROP"]).await;
    }

    /// Cuts a member off from the other members; clients still reach it.
    ///
    /// # Panics
    /// When the packet filter cannot be set.
    pub async fn cut_off_from_peers(&self, index: usize) {
        for (other, peer) in self.members.iter().enumerate() {
            if other != index {
                let peer = peer.address.to_string();
                self.filter(index, &["-A", "INPUT", "-s", &peer, "-j", "DROP"]).await;
                self.filter(index, &["-A", "OUTPUT", "-d", &peer, "-j", "DROP"]).await;
            }
        }
    }

    /// Ends what [`Self::cut_off`] or [`Self::cut_off_from_peers`] began.
    ///
    /// # Panics
    /// When the packet filter cannot be set.
    pub async fn rejoin(&self, index: usize) {
        self.filter(index, &["-F"]).await;
    }

    async fn filter(&self, index: usize, rule: &[&str]) {
        let command = [&["iptables", "-w"], rule].concat();
        in_network_of(self.id(index), &command).await.expect("the packet filter of the member");
    }

    async fn agreed_leader(&self) -> Option<usize> {
        let mut asking = JoinSet::new();
        for endpoint in self.endpoints() {
            asking.spawn(tokio::time::timeout(STATUS, async move {
                client(&endpoint).await.status().await
            }));
        }
        let answers = asking.join_all().await;
        let named: Vec<(u64, u64)> = answers
            .into_iter()
            .flatten()
            .flatten()
            .map(|status| (member_id(&status), status.leader()))
            .collect();
        let leads = |id: u64| {
            let votes = named.iter().filter(|(_member, leader)| *leader == id);
            named.contains(&(id, id)) && votes.count() > self.members.len() / 2
        };
        self.members.iter().position(|member| leads(member.id))
    }

    fn id(&self, index: usize) -> &str {
        self.members[index].container.id()
    }
}

impl Member {
    /// Starts a member. testcontainers cannot give out addresses, so the container starts on Docker's
    /// default network and moves to its place at once.
    async fn start(index: usize, address: Ipv4Addr, network: &str, peers: String) -> Self {
        let flags = [
            format!("--name=m{index}"),
            format!("--data-dir={DATA_DIR}"),
            "--listen-client-urls=http://0.0.0.0:2379".to_owned(),
            format!("--advertise-client-urls=http://{address}:2379"),
            "--listen-peer-urls=http://0.0.0.0:2380".to_owned(),
            format!("--initial-advertise-peer-urls=http://{address}:2380"),
            format!("--initial-cluster={peers}"),
            "--initial-cluster-state=new".to_owned(),
        ];
        // A volume without a name: it outlives a kill and goes with the container.
        let data = Mount::volume_mount("", DATA_DIR);
        let container = etcd_request(flags, &data).start().await.expect("an etcd container starts");
        let ip = address.to_string();
        docker(&["network", "connect", "--ip", &ip, network, container.id()])
            .await
            .expect("the address is free");
        docker(&["network", "disconnect", "bridge", container.id()])
            .await
            .expect("the member leaves the bridge");
        Self { container, address, id: 0 }
    }

    fn endpoint(&self) -> String {
        format!("http://{}:2379", self.address)
    }
}

impl Drop for EtcdCluster {
    /// Removes the members here, before testcontainers would, because a network in use cannot go.
    fn drop(&mut self) {
        let mut remove = vec!["rm", "-fv"];
        remove.extend(self.members.iter().map(|member| member.container.id()));
        docker_now(&remove);
        docker_now(&["network", "rm", &self.network]);
    }
}

fn peer_list(addresses: &[Ipv4Addr]) -> String {
    let peers = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| format!("m{index}=http://{address}:2380"));
    peers.collect::<Vec<_>>().join(",")
}

/// Makes a network with room for fourteen addresses and gives back its name and the first for a
/// member. A range that is already in use is skipped.
async fn make_network() -> (String, Ipv4Addr) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = Ipv4Addr::new(10, 231, 0, 0).to_bits();
    let label = format!("{RUN_LABEL}={}", run_name());
    let mut last = String::new();
    for _attempt in 0..32 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let block = (std::process::id().wrapping_mul(61).wrapping_add(number)) % 4096;
        let subnet = base + block * 16;
        let name = format!("lockd-test-{}-{number}", run_name());
        let range = format!("{}/28", Ipv4Addr::from_bits(subnet));
        match docker(&["network", "create", "--label", &label, "--subnet", &range, &name]).await {
            // The first address of the range is the network's own, the second the gateway's.
            Ok(_id) => return (name, Ipv4Addr::from_bits(subnet + 2)),
            Err(error) => last = error,
        }
    }
    panic!("no network for an etcd cluster: {last}");
}
