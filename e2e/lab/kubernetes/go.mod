// The module. What it depends on stands in go-VERSION.mod, one for each Kubernetes that tools/kubernetes builds.
module github.com/memrecon/memrecon/e2e/lab/kubernetes

go 1.26.0
