// Package documents finds the commands that the documents of the repository show, and knows for each of them which test
// runs it. Tests that run the sessions of a document take them from here, so that a
// command that is added to a document is run, or fails the test of this package.
package documents
