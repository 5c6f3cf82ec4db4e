// Package manifests tests the manifests beside it: that they are what Kubernetes understands, that they ask for no right beyond
// those stated here, and that the agent runs as they start it.
package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// manifest is what one kustomization renders to.
type manifest struct {
	namespace  corev1.Namespace
	quota      corev1.ResourceQuota
	account    corev1.ServiceAccount
	role       rbacv1.ClusterRole
	binding    rbacv1.ClusterRoleBinding
	daemonSet  appsv1.DaemonSet
	podMonitor monitoringv1.PodMonitor // in the overlay prometheus-operator alone
}

// render renders a kustomization as kubectl does, and decodes it strictly: an unknown field is an error, as is an object that
// manifest has no place for.
func render(t *testing.T, dir string) *manifest {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	serializer := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	m := &manifest{}
	seen := make(map[string]bool)
	for _, r := range resources.Resources() {
		if seen[r.GetKind()] {
			t.Fatalf("%s: more than one %s", dir, r.GetKind())
		}
		seen[r.GetKind()] = true
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := serializer.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", dir, err, text)
		}
		switch o := object.(type) {
		case *corev1.Namespace:
			m.namespace = *o
		case *corev1.ResourceQuota:
			m.quota = *o
		case *corev1.ServiceAccount:
			m.account = *o
		case *rbacv1.ClusterRole:
			m.role = *o
		case *rbacv1.ClusterRoleBinding:
			m.binding = *o
		case *appsv1.DaemonSet:
			m.daemonSet = *o
		case *monitoringv1.PodMonitor:
			m.podMonitor = *o
		default:
			t.Fatalf("%s: unexpected %s", dir, r.GetKind())
		}
	}
	return m
}

// rights is everything that a manifest asks for beyond the least, one line each, sorted. What is not listed here nobody gets.
func (m *manifest) rights() []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	pod := &m.daemonSet.Spec.Template

	// The strictest of the Pod Security Standards, as the API server evaluates it.
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return []string{err.Error()}
	}
	level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
		if !result.Allowed {
			add("pod security: %s", result.ForbiddenReason)
		}
	}
	// What the standards leave open.
	sources := make(map[string]string)
	for _, v := range pod.Spec.Volumes {
		if v.HostPath == nil {
			add("volume %s, not of the host", v.Name)
			continue
		}
		sources[v.Name] = v.HostPath.Path
	}
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	if len(containers) != 1 {
		add("%d containers", len(containers))
	}
	for _, c := range containers {
		if slices.Contains(c.Args, "--kubelet.insecure-skip-verify") {
			add("the kubelet's certificate is not verified")
		}
	}
	for _, c := range containers {
		for _, v := range c.VolumeMounts {
			access := "writable"
			if v.ReadOnly && v.RecursiveReadOnly != nil && *v.RecursiveReadOnly == corev1.RecursiveReadOnlyIfPossible {
				access = "read-only"
			}
			add("mount %s %s", sources[v.Name], access)
		}
		if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			add("writable root file system")
		}
		if s := c.SecurityContext; s != nil && s.Capabilities != nil {
			for _, capability := range s.Capabilities.Add {
				add("capability %s", capability)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.FieldRef == nil {
				add("variable %s from other than the pod", e.Name)
			}
		}
		if len(c.EnvFrom) > 0 {
			add("variables from other than the pod")
		}
	}
	if s := pod.Spec.SecurityContext; s == nil || s.RunAsUser == nil || *s.RunAsUser != 65534 {
		add("a uid other than 65534")
	}
	if a := m.account.AutomountServiceAccountToken; a == nil || *a {
		add("a token for every pod of the service account")
	}
	for _, rule := range m.role.Rules {
		if len(rule.NonResourceURLs) > 0 {
			add("rbac %v on %v", rule.Verbs, rule.NonResourceURLs)
		}
		for _, r := range rule.Resources {
			add("rbac %s %s%v", strings.Join(rule.Verbs, ","), r, rule.APIGroups)
		}
	}
	slices.Sort(found)
	return found
}

// baseRights are all that the base asks for.
func baseRights() []string {
	return []string{
		"mount /proc read-only",
		"mount /sys/fs/cgroup read-only",
		"pod security: restricted volume types",
		"rbac get nodes/configz[]",
		"rbac get nodes/metrics[]",
		"rbac get nodes/pods[]",
		"rbac get nodes/stats[]",
		"rbac get,list,watch nodes[]",
	}
}

// kustomizations are all folders that can be applied, with the rights that each asks for beyond the base's.
func kustomizations() map[string][]string {
	return map[string][]string{
		"base":                         nil,
		"overlays/plain-prometheus":    nil,
		"overlays/prometheus-operator": nil,
		"overlays/forensics": {
			"a uid other than 65534",
			"capability SYSLOG",
			"pod security: runAsNonRoot != true",
			"pod security: runAsUser=0",
			"pod security: unrestricted capabilities",
		},
		"overlays/unverified-kubelet": {"the kubelet's certificate is not verified"},
		"overlays/events":             {"rbac create,patch events[]"},
		"overlays/incidents": {
			"a uid other than 65534",
			"mount /var/lib/memrecon writable",
			"pod security: runAsNonRoot != true",
			"pod security: runAsUser=0",
		},
	}
}

func TestRights(t *testing.T) {
	for dir, more := range kustomizations() {
		t.Run(dir, func(t *testing.T) {
			want := slices.Sorted(slices.Values(append(baseRights(), more...)))
			if got := render(t, dir).rights(); !slices.Equal(got, want) {
				t.Errorf("rights:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
		})
	}
}

// Each right that memrecon must not have is found when somebody asks for it.
func TestRightsAreFound(t *testing.T) {
	container := func(m *manifest) *corev1.Container { return &m.daemonSet.Spec.Template.Spec.Containers[0] }
	pod := func(m *manifest) *corev1.PodSpec { return &m.daemonSet.Spec.Template.Spec }
	tests := map[string]func(*manifest){
		"pod security: privileged":                        func(m *manifest) { container(m).SecurityContext.Privileged = new(true) },
		"pod security: allowPrivilegeEscalation != false": func(m *manifest) { container(m).SecurityContext.AllowPrivilegeEscalation = nil },
		"pod security: unrestricted capabilities":         func(m *manifest) { container(m).SecurityContext.Capabilities.Drop = nil },
		"capability SYS_ADMIN": func(m *manifest) {
			container(m).SecurityContext.Capabilities.Add = []corev1.Capability{"SYS_ADMIN"}
		},
		"writable root file system":     func(m *manifest) { container(m).SecurityContext.ReadOnlyRootFilesystem = nil },
		"pod security: host namespaces": func(m *manifest) { pod(m).HostPID = true },
		"pod security: hostPort":        func(m *manifest) { container(m).Ports[0].HostPort = 19110 },
		"pod security: runAsNonRoot != true": func(m *manifest) {
			pod(m).SecurityContext.RunAsNonRoot = nil
		},
		"a uid other than 65534":       func(m *manifest) { pod(m).SecurityContext.RunAsUser = nil },
		"pod security: seccompProfile": func(m *manifest) { pod(m).SecurityContext.SeccompProfile = nil },
		"mount /proc writable":         func(m *manifest) { container(m).VolumeMounts[0].ReadOnly = false },
		"mount /sys/fs/cgroup writable": func(m *manifest) {
			container(m).VolumeMounts[1].RecursiveReadOnly = nil
		},
		"mount / read-only": func(m *manifest) { pod(m).Volumes[0].HostPath.Path = "/" },
		"volume secret, not of the host": func(m *manifest) {
			source := corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "any"}}
			pod(m).Volumes = append(pod(m).Volumes, corev1.Volume{Name: "secret", VolumeSource: source})
		},
		"the kubelet's certificate is not verified": func(m *manifest) {
			container(m).Args = append(container(m).Args, "--kubelet.insecure-skip-verify")
		},
		"2 containers": func(m *manifest) { pod(m).InitContainers = pod(m).Containers },
		"variable NODE_NAME from other than the pod": func(m *manifest) {
			container(m).Env[0].ValueFrom = &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "any"}}
		},
		"variables from other than the pod": func(m *manifest) { container(m).EnvFrom = []corev1.EnvFromSource{{}} },
		"a token for every pod of the service account": func(m *manifest) {
			m.account.AutomountServiceAccountToken = nil
		},
		"rbac get nodes/proxy[]":   func(m *manifest) { m.role.Rules[0].Resources[0] = "nodes/proxy" },
		"rbac get,list,watch *[*]": func(m *manifest) { m.role.Rules[1].Resources[0], m.role.Rules[1].APIGroups[0] = "*", "*" },
		"rbac [get] on [/metrics]": func(m *manifest) {
			m.role.Rules = append(m.role.Rules, rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}})
		},
	}
	for right, ask := range tests {
		t.Run(right, func(t *testing.T) {
			m := render(t, "base")
			ask(m)
			found := func(r string) bool {
				return r == right || strings.HasPrefix(r, "pod security: ") && strings.HasPrefix(r, right)
			}
			if got := m.rights(); !slices.ContainsFunc(got, found) {
				t.Errorf("not among the rights:\n\t%s", strings.Join(got, "\n\t"))
			}
		})
	}
}

// How the pod is kept on every node, in its class and in its limits.
func TestDaemonSet(t *testing.T) {
	for dir := range kustomizations() {
		t.Run(dir, func(t *testing.T) {
			m := render(t, dir)
			set, pod := m.daemonSet, m.daemonSet.Spec.Template
			c := pod.Spec.Containers[0]

			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				limit, request := c.Resources.Limits[name], c.Resources.Requests[name]
				if limit.IsZero() || limit.Cmp(request) != 0 {
					t.Errorf("%s: request %s, limit %s: the pod is not Guaranteed", name, &request, &limit)
				}
			}
			// With 500 pods the agent was charged 67 MiB (make bench).
			if limit := c.Resources.Limits[corev1.ResourceMemory]; limit.Value() < 90<<20 || env(c, "GOMEMLIMIT") != "" {
				t.Errorf("limit %s, GOMEMLIMIT %q: the agent finds its own share of the limit", &limit, env(c, "GOMEMLIMIT"))
			}
			if pod.Spec.PriorityClassName != "system-node-critical" {
				t.Errorf("priority class %q", pod.Spec.PriorityClassName)
			}
			if got := m.quota.Spec.ScopeSelector.MatchExpressions[0]; got.ScopeName != corev1.ResourceQuotaScopePriorityClass ||
				!slices.Contains(got.Values, pod.Spec.PriorityClassName) {
				t.Errorf("the quota is for %v, not for the pod's priority class", got)
			}
			if want := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}; !slices.Equal(pod.Spec.Tolerations, want) {
				t.Errorf("tolerations %v, want all", pod.Spec.Tolerations)
			}
			if set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
				t.Errorf("update strategy %q", set.Spec.UpdateStrategy.Type)
			}
			if !labels.SelectorFromSet(set.Spec.Selector.MatchLabels).Matches(labels.Set(pod.Labels)) {
				t.Errorf("selector %v does not select the pod's labels %v", set.Spec.Selector, pod.Labels)
			}
			if e := c.Env[slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "NODE_NAME" })]; e.ValueFrom == nil ||
				e.ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
				t.Errorf("NODE_NAME is not the node's: %v", e)
			}
		})
	}
}

// The objects name each other.
func TestReferences(t *testing.T) {
	for dir := range kustomizations() {
		t.Run(dir, func(t *testing.T) {
			m := render(t, dir)
			for object, namespace := range map[string]string{
				"ServiceAccount": m.account.Namespace, "DaemonSet": m.daemonSet.Namespace, "ResourceQuota": m.quota.Namespace,
			} {
				if namespace != m.namespace.Name {
					t.Errorf("%s is in namespace %q, not in %q", object, namespace, m.namespace.Name)
				}
			}
			if level := m.namespace.Labels["pod-security.kubernetes.io/enforce"]; level != string(podsecurity.LevelPrivileged) {
				t.Errorf("the namespace's level %q admits no hostPath", level)
			}
			if m.daemonSet.Spec.Template.Spec.ServiceAccountName != m.account.Name {
				t.Error("the pod has another service account")
			}
			want := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: m.account.Name, Namespace: m.account.Namespace}}
			if !slices.Equal(m.binding.Subjects, want) || m.binding.RoleRef.Name != m.role.Name || m.binding.RoleRef.Kind != "ClusterRole" {
				t.Errorf("the binding gives %v to %v", m.binding.RoleRef, m.binding.Subjects)
			}
		})
	}
}

// The right to write Events goes with the flag that makes the agent use it.
func TestEventsOverlay(t *testing.T) {
	for dir := range kustomizations() {
		args := render(t, dir).daemonSet.Spec.Template.Spec.Containers[0].Args
		if got, want := slices.Contains(args, "--kubernetes.events"), dir == "overlays/events"; got != want {
			t.Errorf("%s: the agent is started with %q", dir, args)
		}
	}
}

// The agent keeps incidents where the node's folder is mounted.
func TestIncidentsOverlay(t *testing.T) {
	for dir := range kustomizations() {
		pod := render(t, dir).daemonSet.Spec.Template.Spec
		c := pod.Containers[0]
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "incidents" })
		if dir != "overlays/incidents" {
			if i >= 0 || slices.ContainsFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "--incidents.dir") }) {
				t.Errorf("%s: the agent is started with %q", dir, c.Args)
			}
			continue
		}
		if i < 0 || *pod.Volumes[i].HostPath.Type != corev1.HostPathDirectoryOrCreate {
			t.Fatalf("%s: the node's folder is not mounted, or not made where it is not there", dir)
		}
		mount := c.VolumeMounts[slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "incidents" })]
		if !slices.Contains(c.Args, "--incidents.dir="+mount.MountPath) {
			t.Errorf("the folder is at %s, and the agent is started with %q", mount.MountPath, c.Args)
		}
	}
}

// Prometheus finds the port on which the agent listens.
func TestPrometheusOverlays(t *testing.T) {
	plain := render(t, "overlays/plain-prometheus").daemonSet.Spec.Template
	port := plain.Spec.Containers[0].Ports[0]
	want := map[string]string{
		"prometheus.io/scrape": "true", "prometheus.io/port": fmt.Sprint(port.ContainerPort), "prometheus.io/path": "/metrics",
	}
	maps.DeleteFunc(plain.Annotations, func(name, _ string) bool { return !strings.HasPrefix(name, "prometheus.io/") })
	if !maps.Equal(plain.Annotations, want) {
		t.Errorf("annotations %v, want %v", plain.Annotations, want)
	}

	m := render(t, "overlays/prometheus-operator")
	monitor, pod := m.podMonitor, m.daemonSet.Spec.Template
	if !labels.SelectorFromSet(monitor.Spec.Selector.MatchLabels).Matches(labels.Set(pod.Labels)) {
		t.Errorf("the PodMonitor's selector %v does not select the pod's labels %v", monitor.Spec.Selector, pod.Labels)
	}
	if monitor.Namespace != m.daemonSet.Namespace {
		t.Errorf("the PodMonitor is in namespace %q, the pods are in %q", monitor.Namespace, m.daemonSet.Namespace)
	}
	endpoint := monitor.Spec.PodMetricsEndpoints[0]
	if endpoint.Port == nil || *endpoint.Port != port.Name || endpoint.Path != "/metrics" {
		t.Errorf("the PodMonitor scrapes %+v, the pod's port is %s", endpoint, port.Name)
	}
}

// env is a variable of the container, "" where it has none.
func env(c corev1.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}
