// Package identity says who a request becomes in the cluster. It holds pure functions: what GitLab (or the standalone section)
// has said about a job or user goes in, an impersonation configuration comes out, and nothing else has a say.
//
// Why an identity cannot be forged:
//
//   - Every name is built here from numbers and names of the authorization answer. No part of the client's request (header,
//     query, path, body) reaches these functions; the agent id was parsed once from the credential and selected the answer's
//     entry.
//   - Names carry a fixed prefix ("gitlab:ci_job:", "gitlab:user:", "gitlab:group:") in front of the variable part, and ids are
//     decimal numbers, so no job, user, group or environment can be named so that it equals a system: name or another kind of
//     name. Only access_as.impersonate gives free names, and that one is written by who owns the agent's configuration.
//   - Each name becomes one header value at the API server. A value with a control character, or with white space at an end
//     (which HTTP trims), would arrive as something else: it is refused, and so is an empty name.
//   - There is no "no identity" by accident. nil comes back only for access_as: agent, written out or absent. A mode that is not
//     known, an answer with a missing part, or an impersonation without a user name is an error, and the request ends there: it
//     never goes on with the agent's own power.
//   - kas refuses a request that has an identity from here and Impersonate-* headers from the client, and the agent refuses it
//     once more, so the two can never be merged.
package identity
