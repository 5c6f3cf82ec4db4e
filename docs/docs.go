// Package docs holds memrecon's documents; those that come from the code are written by `make docs`.
package docs

//go:generate sh -c "go run ../cmd/memrecon figures -o markdown > figures.md.new && mv figures.md.new figures.md"
//go:generate sh -c "go run ../cmd/memrecon metrics > metrics.md.new && mv metrics.md.new metrics.md"
