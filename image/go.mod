// A module of its own, so that what the archive is written and tested with is no dependency of memrecon.
module github.com/memrecon/memrecon/image

go 1.26.0

require (
	github.com/google/go-containerregistry v0.22.1
	github.com/memrecon/memrecon v0.0.0
	github.com/opencontainers/go-digest v1.0.0
	github.com/opencontainers/image-spec v1.1.1
)

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/klauspost/compress v1.19.2 // indirect
)

replace github.com/memrecon/memrecon => ../
