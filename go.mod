module github.com/memrecon/memrecon

go 1.26
