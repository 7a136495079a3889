package doctor

// networkCauses are those between two programs that speak of nothing yet.
var networkCauses = []Cause{
	{
		"unknown-host", Network, "No DNS server knows this name: the address is misspelt, or the name exists only in another network.",
		"Correct the address. Inside a cluster, compare with `kubectl run -it --rm --image=busybox dns -- nslookup NAME`.",
	},
	{
		"dns-trouble", Network, "DNS gave no answer: the resolver is out of reach or out of order. Nothing is known about the address yet.",
		"Look at the cluster's DNS (`kubectl -n kube-system get pods -l k8s-app=kube-dns`), and let a NetworkPolicy allow port 53 over UDP and TCP.",
	},
	{
		"port-closed", Network, "The machine answers, and nothing listens on this port: the server does not run, or the port is another one.",
		"Start the server, or correct the port. Kas listens for agents on 8150, its Kubernetes API proxy on 8154; behind a reverse proxy both are on 443.",
	},
	{
		"unreachable", Network, "Packets do not arrive, or no answer comes back: a firewall, a NetworkPolicy, a route, or an address that nobody has.",
		"Let the egress rules allow this address and port. If a proxy is the only way out, set HTTPS_PROXY.",
	},
	{
		"proxy-unreachable", Network, "HTTP_PROXY or HTTPS_PROXY names a proxy that cannot be reached.",
		"Correct the variable, or list the host in NO_PROXY if no proxy is needed to reach it.",
	},
	{
		"proxy-refused", Network, "The proxy that HTTP_PROXY or HTTPS_PROXY names does not open connections to this address.",
		"Have the proxy allow CONNECT to this host and port, put its user and password into the variable (http://user:password@proxy:3128), or list the host in NO_PROXY.",
	},
	{
		"proxy-variable", Network, "HTTP_PROXY or HTTPS_PROXY is not a URL.",
		"Write it as http://proxy.example.com:3128.",
	},
	{
		"hung-up", Network, "The connection was opened and closed again before a word was said: a load balancer without a backend, a firewall that resets, or another protocol on this port.",
		"Look at the log of what listens there, and check that scheme and port belong together.",
	},
	{
		"too-slow", Network, "There was no answer in time.",
		"Run it again. If it stays so, the server is overloaded, or something on the way swallows packets.",
	},
}

// tlsCauses are those of the encryption.
var tlsCauses = []Cause{
	{
		"private-ca", TLS, "The certificate is signed by an authority that is not trusted here, as private ones are not.",
		"Give the authority's certificate: `--kas-ca-cert-file FILE`, in the chart `config.kasCaCert`.",
	},
	{
		"server-name", TLS, "The certificate is good, but for another name than the one that was dialled.",
		"Dial a name that is in the certificate, have one issued with this name among its subject alternative names, or say which name to expect with `--kas-tls-server-name`.",
	},
	{
		"certificate-expired", TLS, "The certificate is not valid at this time: it has expired, or the clock of this machine is wrong.",
		"Renew the certificate, or set the clock right.",
	},
	{
		"certificate-expiring", TLS, "The certificate expires within two weeks.",
		"Renew it. Kas reads the new files without a restart.",
	},
	{
		"not-tls", TLS, "What listens there does not speak TLS, although the scheme says so.",
		"Use ws:// or grpc:// (http:// for a Kubernetes API proxy), or give the server a certificate; kas: `agent.listen.certificate_file` and `key_file`.",
	},
	{
		"tls-expected", TLS, "What listens there wants TLS, and the scheme says that there is none.",
		"Use wss:// or grpcs:// (https:// for a Kubernetes API proxy).",
	},
	{
		"tls-failed", TLS, "The two ends do not agree on how to encrypt, or one of them refuses the other.",
		"TLS 1.2 or 1.3 is needed. If the server asks for a client certificate, let it not do so for agents: they have none.",
	},
	{
		"certificate-files", TLS, "A certificate and its key cannot be used: a file is missing, cannot be read, or they do not belong together.",
		"Both must be PEM, the certificate with its intermediates after it, and readable by the user of the daemon.",
	},
}

// httpCauses are answers of something that is not kas.
var httpCauses = []Cause{
	{
		"redirect", HTTP, "The server sends the agent elsewhere. Usually the slash at the end of the address is missing, or the scheme is the unencrypted one. Agents follow no redirects: the token would go along.",
		"Use the final URL: wss:// and, behind a reverse proxy, with the slash: wss://HOST/-/kubernetes-agent/.",
	},
	{
		"not-routed", HTTP, "A web server answers and does not know this path: the reverse proxy does not pass it on to kas.",
		"Correct the path (GitLab's own is /-/kubernetes-agent/), or add the location to the reverse proxy: it leads to port 8150 of kas.",
	},
	{
		"bad-gateway", HTTP, "A reverse proxy answers and cannot reach kas behind it: kas does not run, or the proxy looks for it at another address.",
		"Start kas (`gitlab-ctl status gitlab-kas`, or look at its pods), and compare `agent.listen.address` with the reverse proxy's upstream.",
	},
	{
		"upgrade-stripped", HTTP, "Something on the way removes the headers Upgrade and Connection, so that no WebSocket can be opened.",
		"Allow WebSocket there. nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\".",
	},
	{
		"refused-in-front", HTTP, "Something in front of kas refuses the request; kas itself asks for nothing at this point.",
		"Exempt the path from single sign-on and from rules of a web application firewall, or send what it wants with `--kas-header \"Name: value\"`.",
	},
	{
		"web-page", HTTP, "A web page is at this address, not kas.",
		"Check host and path. The address of GitLab is not that of kas: it is wss://kas.HOST or wss://HOST/-/kubernetes-agent/.",
	},
	{
		"not-websocket", HTTP, "The answer is none that the end of an agent's connection gives.",
		"Check that host, port and path lead to the agent listener of kas (8150).",
	},
	{
		"wrong-protocol", HTTP, "What listens there speaks another protocol: scheme and port do not belong together.",
		"ws and wss reach kas where `agent.listen.websocket` is true; grpc and grpcs need HTTP/2 all the way, which many reverse proxies do not have.",
	},
	{
		"not-the-proxy", HTTP, "What answers is not the Kubernetes API proxy of kas.",
		"The reverse proxy must lead this path to port 8154 of kas (GitLab's own is /-/kubernetes-agent/k8s-proxy/).",
	},
	{
		"wrong-prefix", HTTP, "Kas answers, and expects another path: the server in the kubeconfig, what the reverse proxy makes of it, and `agent.kubernetes_api.url_path_prefix` of kas do not fit.",
		"Make the three agree; the path in the kubeconfig comes from GitLab's setting (gitlab_kas_external_k8s_proxy_url), the one of kas is `url_path_prefix`. Common are /k8s-proxy and /-/kubernetes-agent/k8s-proxy.",
	},
	{
		"plain-proxy", HTTP, "The kubeconfig's server is http://. kubectl sends no token without encryption; the cluster then says \"You must be logged in to the server\".",
		"Give the proxy a certificate (`agent.kubernetes_api.listen`, or a reverse proxy with TLS) and use https://.",
	},
	{
		"streams-broken", HTTP, "Plain requests pass and upgraded ones do not: exec, attach, cp, port-forward will hang or fail.",
		"Allow WebSocket on the load balancer for the path of the proxy too, and use kubectl 1.31 or later, which needs no SPDY.",
	},
}
