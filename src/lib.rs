//! An Envoy filter for Azure OpenAI.
