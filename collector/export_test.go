package collector

// AskKubernetes asks at once, in place of in ten seconds, and waits for the answer.
func (c *Collector) AskKubernetes() { c.kubernetes.ask() }
