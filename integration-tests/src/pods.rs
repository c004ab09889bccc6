//! Pods without Kubernetes: containers that share the network and the processes of one that does nothing,
//! as a pod's containers do. In each an app in Python and lockd's sidecar; beside them two lockd in front of
//! three members of etcd.

use std::path::Path;

use crate::{
    EtcdCluster,
    daemon::lockd_binary,
    docker::{RUN_LABEL, docker, docker_now, in_network_of, run_name},
    image::Image,
};

/// A container of a pod, or one with a lockd. It goes away with its value.
pub struct Container {
    id: String,
}

/// An app, its sidecar, and what they share.
pub struct Pod {
    /// Holds the namespaces.
    pause: Container,
    /// The app: `deploy/example-app/app.py`.
    pub app: Container,
    /// Its sidecar.
    pub sidecar: Container,
}

/// Everything that pods need. Pods have to go before it.
pub struct Stage {
    daemons: Vec<Container>,
    addrs: String,
    cluster: EtcdCluster,
}

impl Stage {
    /// Three members of etcd, and two lockd in front of them.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start() -> Self {
        let cluster = EtcdCluster::start(3).await;
        let endpoints = cluster.endpoints().join(",");
        let serve = ["/lockd", "serve", "--store", "etcd", "--etcd-endpoints", &endpoints];
        let listen = ["--listen", "0.0.0.0:7420", "--http-listen", "0.0.0.0:7421", "--log", "warn"];
        let command = [&serve[..], &listen].concat();
        let (mut daemons, mut addrs) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let daemon = Container::run(&["--network", cluster.network()], &command).await;
            let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
            addrs.push(format!("http://{}:7420", daemon.inspect(address).await));
            daemons.push(daemon);
        }
        Self { daemons, addrs: addrs.join(","), cluster }
    }

    /// The addresses of both lockd, as clients take them.
    pub fn addrs(&self) -> &str {
        &self.addrs
    }

    /// One of the two lockd.
    pub fn daemon(&self, index: usize) -> &Container {
        &self.daemons[index]
    }

    /// The members of etcd.
    pub fn cluster(&self) -> &EtcdCluster {
        &self.cluster
    }

    /// A pod of this name whose app campaigns in the election `e` with a TTL of 3 s. With `bound`, its
    /// leadership is bound to the app's process.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn pod(&self, name: &str, bound: bool) -> Pod {
        self.pod_of(name, bound, "3s").await
    }

    /// The same with another TTL.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn pod_of(&self, name: &str, bound: bool, ttl: &str) -> Pod {
        let pause =
            Container::run(&["--network", self.cluster.network()], &["sleep", "infinity"]).await;
        let shared = format!("container:{}", pause.id);
        let shared = ["--network", &shared, "--pid", &shared];
        let app = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/example-app/app.py");
        let app = Path::new(app).canonicalize().expect("the example app is there");
        let app = format!("{}:/app.py:ro", app.display());
        let app =
            Container::run(&[&shared[..], &["-v", &app]].concat(), &["python3", "-u", "/app.py"])
                .await;
        let mut command = vec!["/lockd", "sidecar", "--addr", &self.addrs, "--election", "e"];
        command.extend(["--identity", name, "--ttl", ttl]);
        let pid = app.pid_inside().await;
        if bound {
            command.extend(["--watch-pid", &pid]);
        }
        let sidecar = Container::run(&shared, &command).await;
        Pod { pause, app, sidecar }
    }
}

impl Pod {
    /// Drops every packet of the pod to and from others; within the pod all goes on.
    ///
    /// # Panics
    /// When the packet filter can't be set.
    pub async fn cut_off(&self) {
        for (chain, side) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            self.filter(&["-A", chain, "!", side, "lo", "-j", "DROP"]).await;
        }
    }

    /// Ends what [`Self::cut_off`] began.
    ///
    /// # Panics
    /// When the packet filter can't be set.
    pub async fn rejoin(&self) {
        self.filter(&["-F"]).await;
    }

    async fn filter(&self, rule: &[&str]) {
        let command = [&["iptables", "-w"], rule].concat();
        in_network_of(&self.pause.id, &command).await.expect("the packet filter of the pod");
    }

    /// What the app has said, a line each, with the time at which it did.
    pub async fn said(&self) -> Vec<(String, String)> {
        let logs = docker(&["logs", "-t", &self.app.id]).await.expect("the app's output");
        let line =
            |line: &str| line.split_once(' ').map(|(at, text)| (at.to_owned(), text.to_owned()));
        logs.lines().filter_map(line).collect()
    }
}

impl Container {
    async fn run(flags: &[&str], command: &[&str]) -> Self {
        let label = format!("{RUN_LABEL}={}", run_name());
        let binary = format!("{}:/lockd:ro", lockd_binary().display());
        let run = ["run", "-d", "--label", &label, "-v", &binary];
        let args = [&run[..], flags, &[Image::Python.name()], command].concat();
        Self { id: docker(&args).await.expect("a container starts") }
    }

    async fn inspect(&self, what: &str) -> String {
        docker(&["inspect", "-f", what, &self.id]).await.expect("the container is there")
    }

    /// The id of its first process, as its pod's containers see it.
    async fn pid_inside(&self) -> String {
        let outside = self.inspect("{{.State.Pid}}").await;
        let status = std::fs::read_to_string(format!("/proc/{outside}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        line.and_then(|ids| ids.split_whitespace().last()).expect("its id").to_owned()
    }

    /// Sends a signal to its first process.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn signal(&self, signal: &str) {
        docker(&["kill", "-s", signal, &self.id]).await.expect("the container runs");
    }

    /// Freezes it.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn pause(&self) {
        docker(&["pause", &self.id]).await.expect("docker pause");
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn unpause(&self) {
        docker(&["unpause", &self.id]).await.expect("docker unpause");
    }

    /// Starts it again after its end.
    ///
    /// # Panics
    /// When Docker refuses.
    pub async fn start_again(&self) {
        docker(&["start", &self.id]).await.expect("the container starts again");
    }

    /// The exit code, once it has ended.
    pub async fn exit_code(&self) -> Option<i32> {
        let state = self.inspect("{{.State.Running}} {{.State.ExitCode}}").await;
        state.strip_prefix("false ")?.parse().ok()
    }

    /// What it has written to stderr and stdout.
    pub async fn logs(&self) -> String {
        let mut command = tokio::process::Command::new("docker");
        let output = command.args(["logs", &self.id]).output().await.expect("docker runs");
        [output.stderr, output.stdout]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .concat()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker_now(&["rm", "-fv", &self.id]);
    }
}
